"""Pure ASGI: stamps each request's arrival, names it, and turns bugs into a problem."""

import asyncio
import logging
import random
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.clock import now_ms
from service.responses import problem_response

log = logging.getLogger(__name__)

REQUEST_ID = b"x-request-id"
# Of a request's ASGI extensions, where `protocol.py` serves: a future, done when nobody waits for answers.
CONNECTION_LOST = "mobilenet.connection_lost"
# Anything else could smuggle lines into logs.
_HARMLESS = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == REQUEST_ID:
            return value.decode() if _HARMLESS.fullmatch(value) else None
    return None


def new_request_id() -> str:
    """A name and no secret. The system's random numbers would be a call that lets other threads take the
    interpreter."""
    return f"{random.getrandbits(128):032x}"


class RequestContext:
    """Outermost: `state.arrival` (of `now_ms`) and `state.request_id`, echoed on every answer. What is still
    cancelled here while the service is `draining` took too long for that."""

    def __init__(self, app: ASGIApp, draining: Callable[[], bool]) -> None:
        self._app, self._draining = app, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrival = now_ms()
        request_id = _given_id(scope) or new_request_id()
        scope.setdefault("state", {}).update(arrival=arrival, request_id=request_id)
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except asyncio.CancelledError:
            if started or not self._draining():
                raise
            # Not raised again: the task ends with this answer, which is what the server cancelled it for.
            log.warning("request %s took too long to end with the service", request_id)
            problem = errors.NotReady("the service is shutting down", headers={"Retry-After": "2"})
            await problem_response(problem, request_id)(scope, receive, send_named)
        except Exception:
            log.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if started:
                raise  # the server cuts the connection: half an answer cannot be mended
            await problem_response(errors.Internal(), request_id)(scope, receive, send_named)
