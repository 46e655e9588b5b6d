"""The short way to the routes that FastAPI only describes."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service import errors
from service.middleware import RequestContext
from service.routes.dependencies import parse_query
from service.routes.direct import DirectApp, DirectRoute, ShortWay
from service.schemas import ClassifyQuery, FaceAttributesQuery

router = APIRouter(route_class=DirectRoute)


@router.post("/echo")
async def echo(request: Request) -> Response:
    if b"bad" in await request.body():
        raise errors.MalformedRequest("bad words")
    return Response(await request.body())


@router.get("/title")
async def title(request: Request) -> Response:
    return Response(request.app.title)


class LongWay:
    """Between the short way and FastAPI: counts what comes by."""

    seen: list[str]

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        LongWay.seen = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            LongWay.seen.append(f"{scope['method']} {scope['path']}")
        await self._app(scope, receive, send)


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(LongWay)
    app.add_middleware(ShortWay, routes=router.routes)
    app.add_middleware(RequestContext, draining=lambda: False)
    app.include_router(router)
    return app


def ask(app: ASGIApp, method: str, path: str, **request: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(method, path, **request)

    return asyncio.run(run())


def test_a_direct_route_is_served_before_fastapi_looks_for_one(app: FastAPI) -> None:
    answer = ask(app, "POST", "/echo", content=b"abc")
    assert (answer.status_code, answer.content) == (200, b"abc")
    assert len(answer.headers["X-Request-ID"]) == 32
    assert LongWay.seen == []


def test_its_problems_are_told_as_those_of_all_routes(app: FastAPI) -> None:
    answer = ask(app, "POST", "/echo", content=b"bad", headers={"X-Request-ID": "till-7"})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "bad words"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "till-7"
    assert LongWay.seen == []


def test_other_methods_and_addresses_take_the_long_way(app: FastAPI) -> None:
    assert ask(app, "GET", "/echo").status_code == 405
    assert ask(app, "POST", "/echo/").status_code == 307
    assert ask(app, "POST", "/other").status_code == 404
    assert LongWay.seen == ["GET /echo", "POST /echo/", "POST /other"]


def test_under_a_path_of_another_application_the_long_way_leads_there_too(app: FastAPI) -> None:
    outer = FastAPI()
    outer.mount("/cats", app)
    assert ask(outer, "POST", "/cats/echo", content=b"abc").content == b"abc"
    assert LongWay.seen == ["POST /cats/echo"]


def test_it_is_described(app: FastAPI) -> None:
    assert "post" in ask(app, "GET", "/openapi.json").json()["paths"]["/echo"]


def asked(query: bytes) -> Request:
    return Request({"type": "http", "query_string": query, "path": "/", "headers": []})


def test_the_same_query_is_read_once_and_by_each_route_for_itself() -> None:
    query = b"latency_budget_ms=50"
    found = parse_query(asked(query), ClassifyQuery)
    assert (found.latency_budget_ms, found.top_k) == (50, 5)
    assert parse_query(asked(query), ClassifyQuery) is found
    assert parse_query(asked(query), FaceAttributesQuery).max_faces == 10
    for _ in range(2):
        with pytest.raises(errors.InvalidParameter, match="greater than 0"):
            parse_query(asked(b"latency_budget_ms=-1"), ClassifyQuery)


class Outer:
    """As instrumentation puts itself around all: counts what comes by."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.seen = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen += scope["type"] == "http"
        await self.app(scope, receive, send)


def direct_app() -> DirectApp:
    app = DirectApp()
    app.add_middleware(ShortWay, routes=router.routes)
    app.add_middleware(RequestContext, draining=lambda: False)
    app.include_router(router)
    return app


def spied(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of requests that come by FastAPI's outermost layer."""
    seen: list[str] = []
    outermost = ServerErrorMiddleware.__call__

    async def call(self: ServerErrorMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        await outermost(self, scope, receive, send)

    monkeypatch.setattr(ServerErrorMiddleware, "__call__", call)
    return seen


def test_layers_that_do_nothing_are_left_out_once_the_app_is_put_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = direct_app()
    seen = spied(app, monkeypatch)
    assert [ask(app, "POST", "/echo", content=b"abc").content for _ in range(3)] == [b"abc"] * 3
    assert ask(app, "GET", "/title").content == app.title.encode()
    assert ask(app, "POST", "/other").status_code == 404
    assert seen == ["/echo"]  # the first puts the app together


def test_instrumentation_around_all_is_heard() -> None:
    app = direct_app()
    outer = Outer(app.build_middleware_stack())
    app.build_middleware_stack = lambda: outer  # type: ignore[method-assign]
    for _ in range(3):
        assert ask(app, "POST", "/echo", content=b"abc").status_code == 200
    assert outer.seen == 3


def test_middleware_outside_of_the_request_context_is_heard() -> None:
    app = direct_app()
    app.add_middleware(LongWay)
    for _ in range(3):
        assert ask(app, "POST", "/echo", content=b"abc").status_code == 200
    assert LongWay.seen == ["POST /echo"] * 3


def test_telemetry_of_fastapi_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    app = direct_app()
    monkeypatch.setattr(app, "_native_telemetry", Telemetry(), raising=False)
    seen = spied(app, monkeypatch)
    for _ in range(3):
        assert ask(app, "POST", "/echo", content=b"abc").status_code == 200
    assert seen == ["/echo"] * 3


def test_a_mounted_root_is_put_into_the_scope() -> None:
    app = direct_app()
    app.root_path = "/shop"
    for _ in range(3):
        assert ask(app, "POST", "/shop/echo", content=b"abc").status_code == 200


class Telemetry:
    def enabled(self) -> bool:
        return True

    async def __call__(
        self, *, app: ASGIApp, scope: Scope, receive: Receive, send: Send, legacy_otel: bool
    ) -> None:
        await app(scope, receive, send)
