"""What a client can be told when a request fails: one class a problem, with its status and code.

`application/problem+json` of RFC 9457. An exception's text never reaches a client; `detail` is written
for one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

TYPE_PREFIX = "urn:mobilenet-service:problem:"


class Problem(Exception):
    """Base of all answers that are not 2xx. `extra` are members beside the standard ones."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra

    def body(self, request_id: str) -> dict[str, Any]:
        return {
            "type": f"{TYPE_PREFIX}{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            **self.extra,
        }


class MalformedRequest(Problem):
    status, code, title = 400, "malformed-request", "The request cannot be parsed"


class Unauthorized(Problem):
    status, code, title = 401, "unauthorized", "An API key is needed"


class NotFound(Problem):
    status, code, title = 404, "not-found", "There is nothing at this address"


class UnknownTask(Problem):
    status, code, title = 404, "unknown-task", "No such task"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        listed = ", ".join(known) or "none"
        super().__init__(f"there is no task {name!r}; known: {listed}", known=list(known))


class UnknownVariant(Problem):
    status, code, title = 404, "unknown-variant", "No such variant"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        listed = ", ".join(known) or "none"
        super().__init__(f"there is no variant {name!r}; known: {listed}", known=list(known))


class MethodNotAllowed(Problem):
    status, code, title = 405, "method-not-allowed", "This address does not take the method"


class BodyTooLarge(Problem):
    status, code, title = 413, "body-too-large", "The request body is too large"

    def __init__(self, limit: int) -> None:
        # The rest of the body is not read, so the connection cannot be used again.
        super().__init__(
            f"the body exceeds the limit of {limit} bytes; send a smaller picture",
            headers={"Connection": "close"},
            limit_bytes=limit,
        )


class TooManyPixels(Problem):
    status, code, title = 413, "too-many-pixels", "The picture has too many pixels"


class UnsupportedMediaType(Problem):
    status, code, title = 415, "unsupported-media-type", "Not an image type that is read here"


class InvalidParameter(Problem):
    status, code, title = 422, "invalid-parameter", "A parameter has a value that is not allowed"

    def __init__(self, parameter: str, detail: str, **extra: Any) -> None:
        super().__init__(detail, parameter=parameter, **extra)


class UnreadableImage(Problem):
    status, code, title = 422, "unreadable-image", "The picture cannot be decoded"


class BudgetInfeasible(Problem):
    status, code, title = 422, "budget-infeasible", "No variant fits the latency budget"

    def __init__(self, budget_ms: float, fastest_ms: float) -> None:
        super().__init__(
            f"the budget is {budget_ms:g} ms, but this picture takes at least {fastest_ms:.1f} ms on an "
            "idle device; raise the budget, or send on_miss=best_effort",
            budget_ms=round(budget_ms, 3),
            fastest_ms=round(fastest_ms, 3),
        )


class Overloaded(Problem):
    status, code, title = 429, "overloaded", "Too much work is waiting"


class NotReady(Problem):
    status, code, title = 503, "not-ready", "The service is not ready"


class DeadlineExceeded(Problem):
    status, code, title = 504, "deadline-exceeded", "The deadline passed while the request waited"


class Internal(Problem):
    status, code, title = 500, "internal", "An error of the service"

    def __init__(self) -> None:
        super().__init__("something went wrong here; the log has more under this request id")
