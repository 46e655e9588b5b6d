"""What routes are handed: the service, the query, and checks that come before the work.

Dependencies are `async`: FastAPI would run plain functions in a thread pool, which costs more than they do.
`POST /v1/classify` calls the plain functions itself: FastAPI's solving of parameters costs the event loop
0.25 ms a request, which is more than all the rest of the route.
"""

import functools
import hmac
import urllib.parse
from collections import Counter
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError

from service import errors
from service.responses import invalid_parameter
from service.routes.descriptions import API_KEY
from service.state import Service

Query = TypeVar("Query", bound=BaseModel)
_LONGEST_REMEMBERED = 256  # bytes of a query, so that nobody fills the memory with them


async def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


def parse_query(request: Request, model: type[Query]) -> Query:
    """The query's parameters. Raises MalformedRequest for a query that is not UTF-8, InvalidParameter for
    a parameter that is given twice or that `model` refuses."""
    try:
        query: bytes = request.scope["query_string"]
        validate = _remembered if len(query) <= _LONGEST_REMEMBERED else _validated
        return validate(query, model)
    except ValidationError as error:
        raise invalid_parameter(error.errors()[0], request.url.path) from None


def _validated(query: bytes, model: type[Query]) -> Query:
    return model.model_validate(_query_pairs(query))


# A client asks the same of each picture.
_remembered = functools.lru_cache(maxsize=128)(_validated)


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """The model's fields as OpenAPI describes a query."""
    schema = model.model_json_schema()
    return [
        {"name": name, "in": "query", "required": False, "schema": field}
        | ({"description": field["description"]} if "description" in field else {})
        for name, field in schema["properties"].items()
    ]


def check_api_key(request: Request, service: Service) -> None:
    """Raises Unauthorized when a key is configured and the request bears none or a wrong one."""
    expected = service.settings.api_key
    if expected is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = token if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    # A header's bytes are read as Latin-1; a key that is not ASCII is sent as UTF-8.
    if not hmac.compare_digest(given.encode("latin-1"), expected.get_secret_value().encode()):
        raise errors.Unauthorized(
            "send the key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _query_pairs(query: bytes) -> dict[str, str]:
    try:
        pairs = urllib.parse.parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise errors.MalformedRequest("the query is not percent-encoded UTF-8") from None
    counts = Counter(name for name, _ in pairs)
    name, count = counts.most_common(1)[0] if counts else ("", 0)
    if count > 1:
        raise errors.InvalidParameter(name, f"{name} is given {count} times; give it once")
    return dict(pairs)


async def _guard(request: Request, service: ServiceDep) -> None:
    check_api_key(request, service)
    _query_pairs(request.scope["query_string"])


GUARDS = [*API_KEY, Depends(_guard)]
