"""What OpenAPI says beside the routes' own signatures: how they refuse, and where a key goes."""

from collections.abc import Iterable
from typing import Any, TypeAlias

from fastapi import Depends
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from service import errors
from service.responses import PROBLEM_MEDIA_TYPE
from service.routes.direct import DirectApp

Kinds: TypeAlias = tuple[type[errors.Problem], ...]
Responses: TypeAlias = dict[int | str, dict[str, Any]]


class ProblemDocument(BaseModel):
    """Of RFC 9457. The members that are not required come with the problems that they explain."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description=f"`{errors.TYPE_PREFIX}` and the problem's code.")
    title: str
    status: int
    detail: str = Field(description="What is wrong, and what the caller can do.")
    request_id: str = Field(description="As in `X-Request-ID`.")
    parameter: str | None = Field(None, description="Which one is not allowed.")
    known: list[str] | None = Field(None, description="Names that there are.")
    supported: list[str] | None = Field(None, description="Image types that are read.")
    limit_bytes: int | None = None
    limit_pixels: int | None = None
    width: int | None = Field(None, description="Of the picture, in pixels.")
    height: int | None = Field(None, description="Of the picture, in pixels.")
    budget_ms: float | None = None
    fastest_ms: float | None = Field(None, description="What the picture takes on an idle device.")
    retry_after_ms: float | None = Field(None, description="As in `Retry-After`, and finer.")


class ProtocolError(BaseModel):
    """As the Open Inference Protocol tells a problem."""

    error: str = Field(description="What is wrong, and what the caller can do.")


class DescribedApp(DirectApp):
    """Its OpenAPI document has the schema that `problems` refers to: FastAPI itself adds models of
    `application/json` only."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas[ProblemDocument.__name__] = ProblemDocument.model_json_schema()
        return document


def problems(*kinds: type[errors.Problem]) -> Responses:
    """The `responses` of a route that may answer with these, as problem documents."""
    schema = {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}
    return {
        status: {
            "description": "; ".join(f"`{kind.code}`: {kind.title}" for kind in same),
            "content": {PROBLEM_MEDIA_TYPE: {"schema": schema}},
        }
        for status, same in _by_status(kinds)
    }


def protocol_errors(*kinds: type[errors.Problem]) -> Responses:
    """The same in the form of the Open Inference Protocol, which has no codes."""
    return {
        status: {"description": "; ".join(kind.title for kind in same), "model": ProtocolError}
        for status, same in _by_status(kinds)
    }


def _by_status(kinds: Kinds) -> Iterable[tuple[int, list[type[errors.Problem]]]]:
    return [
        (status, [kind for kind in kinds if kind.status == status])
        for status in sorted({kind.status for kind in kinds})
    ]


# How the checks of `GUARDS` refuse.
GUARDED: Kinds = (errors.MalformedRequest, errors.Unauthorized, errors.InvalidParameter)

# How every route that runs an inference may refuse, beside what it does not know.
INFERENCE: Kinds = (
    *GUARDED,
    errors.BodyTooLarge,
    errors.TooManyPixels,
    errors.UnsupportedMediaType,
    errors.UnreadableImage,
    errors.BudgetInfeasible,
    errors.Overloaded,
    errors.NotReady,
    errors.DeadlineExceeded,
)

# Either of them will do. They describe and refuse nothing: `check_api_key` does, where a key is configured.
_WHEN = "The service's key, where one is configured."
API_KEY = [
    Depends(HTTPBearer(description=_WHEN, auto_error=False)),
    Depends(APIKeyHeader(name="X-API-Key", description=_WHEN, auto_error=False)),
]
