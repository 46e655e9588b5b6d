"""Routes that FastAPI describes and does not handle, and the short way to them."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service import errors
from service.responses import on_problem

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """Its endpoint takes the request and returns the response: there is nothing to solve, validate or
    serialise. On the hot path FastAPI's handler costs as much as reading the body."""

    def get_route_handler(self) -> Endpoint:
        endpoint: Endpoint = self.endpoint
        return endpoint


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
