"""What routes are handed: the service, and checks that come before the work.

All `async`: FastAPI would run plain functions in a thread pool, which costs more than they do.
"""

import hmac
import urllib.parse
from typing import Annotated

from fastapi import Depends, Request

from service import errors
from service.state import Service


async def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


async def check_query_encoding(request: Request) -> None:
    """Raises MalformedRequest for a query that is not UTF-8, InvalidParameter for one given twice."""
    query: bytes = request.scope["query_string"]
    try:
        pairs = urllib.parse.parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise errors.MalformedRequest("the query is not percent-encoded UTF-8") from None
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise errors.InvalidParameter(twice, f"{twice} is given {names.count(twice)} times; give it once")


async def check_api_key(request: Request, service: ServiceDep) -> None:
    """Raises Unauthorized when a key is configured and the request bears none or a wrong one."""
    expected = service.settings.api_key
    if expected is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = token if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    if not hmac.compare_digest(given.encode(), expected.get_secret_value().encode()):
        raise errors.Unauthorized(
            "send the key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'",
            headers={"WWW-Authenticate": "Bearer"},
        )


GUARDS = [Depends(check_api_key), Depends(check_query_encoding)]
