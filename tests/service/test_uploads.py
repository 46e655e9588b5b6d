"""How long a body may take to come."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

from service import uploads
from service.errors import MalformedRequest
from service.server import configure_logging
from service.settings import Settings


def slow_body(parts: int, size: int, seconds: float) -> Callable[[], Awaitable[dict[str, Any]]]:
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        await asyncio.sleep(seconds)
        sent += 1
        return {"type": "http.request", "body": b"x" * size, "more_body": sent < parts}

    return receive


def read(receive: Callable[[], Awaitable[dict[str, Any]]]) -> bytes:
    request = Request({"type": "http", "headers": []}, receive)
    return asyncio.run(uploads.read_body(request, 1 << 20))


def test_a_body_that_comes_steadily_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_STALLED_S", 0.5)
    assert len(read(slow_body(parts=20, size=100, seconds=0.05))) == 2000


@pytest.mark.parametrize(
    "receive",
    [slow_body(parts=500, size=1, seconds=0.01), slow_body(parts=2, size=100_000, seconds=1)],
    ids=["a byte at a time", "all but the end at once"],
)
def test_a_body_that_hardly_comes_is_given_up(
    receive: Callable[[], Awaitable[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_STALLED_S", 0.5)
    with pytest.raises(MalformedRequest, match=r"too little of the body came in 0\.5 s"):
        read(receive)


def test_what_a_client_gets_wrong_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    configure_logging(Settings())
    headers = [(b"content-type", b"multipart/form-data; boundary=xyz")]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"no boundary\r\n" * 20, "more_body": False}

    with pytest.raises(MalformedRequest, match="the multipart body cannot be parsed"):
        asyncio.run(uploads.read_picture(Request({"type": "http", "headers": headers}, receive), 1 << 20))
    assert not caplog.records
