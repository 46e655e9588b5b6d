"""Routes that FastAPI describes and does not handle, and the short way to them."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service import errors
from service.middleware import RequestContext
from service.responses import on_problem

# By name: of these some versions of FastAPI have only the first.
_IDLE_LAYERS = frozenset(
    {
        "starlette.middleware.errors.ServerErrorMiddleware",
        "fastapi.telemetry._asgi.ExceptionTelemetryMiddleware",
        "fastapi._body_limit.AppBodyLimitMiddleware",
    }
)
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """Its endpoint takes the request and returns the response: there is nothing to solve, validate or
    serialise. On the hot path FastAPI's handler costs as much as reading the body."""

    def get_route_handler(self) -> Endpoint:
        endpoint: Endpoint = self.endpoint
        return endpoint


class DirectApp(FastAPI):
    """Begins with its own middleware. Outside of it FastAPI has layers that catch what nobody caught, observe
    and limit, and do nothing for a request where a `RequestContext` catches all and nothing is observed or
    limited. What else was put there, as instrumentation does, is heard.
    """

    _stack: ASGIApp | None = None  # where the beginning was looked for
    _begins: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.middleware_stack is not self._stack:  # built when the server starts
            self._stack, self._begins = self.middleware_stack, self._beginning()
        if self._begins is None or scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        await self._begins(scope, receive, send)

    def _beginning(self) -> ASGIApp | None:
        """None where the outer layers have something to do."""
        telemetry = getattr(self, "_native_telemetry", None)  # what the environment asks of FastAPI
        if self.root_path or (telemetry is not None and telemetry.enabled()):
            return None
        inner: Any = self.middleware_stack
        while _name(inner) in _IDLE_LAYERS:
            inner = inner.app
        return inner if isinstance(inner, RequestContext) else None


def _name(layer: object) -> str:
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


class ShortWay:
    """Pure ASGI: goes straight to the direct routes among `routes`, whose paths have no parameters.

    Between here and an endpoint FastAPI has ten layers, and a request in a burst waits while those before it
    go through them. All else, another method of the same path and an application mounted under a path too,
    takes the long way and finds the same.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._endpoints: dict[tuple[str, str], Endpoint] = {
            (method, route.path): route.endpoint
            for route in routes
            if isinstance(route, DirectRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = None
        if scope["type"] == "http" and not scope.get("root_path"):
            endpoint = self._endpoints.get((scope["method"], scope["path"]))
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except errors.Problem as problem:
            response = await on_problem(request, problem)
        await response(scope, receive, send)
