"""Connections of all kinds against a small application on uvicorn, in this process."""

import asyncio
import gc
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from service import protocol
from service.middleware import CONNECTION_LOST
from service.server import bind
from service.settings import Settings

Ask = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


told: list[str] = []  # of the connections whose loss was waited for


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["path"] == "/waits":
        await scope["extensions"][CONNECTION_LOST]
        told.append(scope["path"])
        return
    body, more = b"", scope["path"] != "/unread"
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    if scope["path"] == "/broken":
        return
    await send({"type": "http.response.body", "body": body})


def ask(talk: Ask, ends_within: float = 20) -> None:
    async def go() -> None:
        bound = bind(Settings(port=0))
        config = uvicorn.Config(
            echo, http=protocol.Protocol, log_config=None, lifespan="off", timeout_keep_alive=30
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started:  # noqa: ASYNC110  (a flag is all that tells)
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*bound.getsockname()[:2])
        try:
            await asyncio.wait_for(talk(reader, writer), 20)
            server.should_exit = True
            await asyncio.wait_for(running, ends_within)  # with the connection still open
        finally:
            writer.close()
            server.should_exit = True
            await running

    asyncio.run(go())


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    found = b""
    try:
        while part := await reader.read(1 << 16):
            found += part
    except ConnectionError:
        pass
    return found


@pytest.mark.parametrize("connection", [b"Upgrade, HTTP2-Settings", b"upgrade, close"])
def test_an_offer_of_http2_is_ignored_and_the_body_is_read(connection: bytes) -> None:
    """As Java's client and `curl --http2` make it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: %s\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"
            % connection
        )
        writer.write(head + b"Content-Length: 11\r\n\r\nhello")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b" world")
        assert (await reader.readuntil(b"hello world")).startswith(b"HTTP/1.1 200")
        if b"close" in connection:
            assert await reader.read() == b""
        else:
            writer.write(GET)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")

    ask(talk)


@pytest.mark.parametrize("line", [b"x: y\r\n", b"x" * 1000], ids=["short lines", "a long one"])
def test_a_head_that_does_not_end_is_refused(line: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET[:-2] + line * (1_000_000 // len(line)))
        answer = await until_closed(reader)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert "65536" in json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]

    ask(talk)


def test_a_large_body_in_many_parts_is_no_head() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(100_000) == b"x" * 100_000

    ask(talk)


def test_who_waits_learns_that_nobody_is_there() -> None:
    told.clear()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET + GET.replace(b"/ ", b"/waits "))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert told == []
        writer.close()
        while not told:  # noqa: ASYNC110  (for 20 s at most)
            await asyncio.sleep(0.01)

    ask(talk)
    assert told == ["/waits"]


def test_some_requests_may_wait_on_a_connection_and_not_thousands() -> None:
    async def some(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET * 200)
        for _ in range(200):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")

    async def thousands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET * 5000)
        answers = await until_closed(reader)
        assert b"HTTP/1.1 400 " in answers
        assert answers.count(b"HTTP/1.1 200") < 5000

    ask(some)
    ask(thousands)


def post(length: int, *lines: bytes) -> bytes:
    return b"\r\n".join(
        [b"POST /unread HTTP/1.1", b"Host: x", b"Content-Length: %d" % length, *lines, b"", b""]
    )


@pytest.mark.parametrize("lines", [(), (b"Connection: close",)], ids=["kept", "to be closed"])
def test_who_sends_before_reading_gets_the_answer_to_a_body_that_nobody_read(
    lines: tuple[bytes, ...],
) -> None:
    """As Python's, Java's and Node's clients do: with a reset for what is unread the answer is lost too."""
    size = 20 << 20

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post(size, *lines))
        for _ in range(size >> 20):
            writer.write(bytes(1 << 20))
            await writer.drain()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        if lines:
            assert await reader.read() == b""
        else:
            writer.write(GET)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")

    ask(talk)


def test_a_body_of_which_much_had_come_when_it_was_answered_is_read_to_its_end() -> None:
    """Or the next request on the connection would never be."""
    size = 5 << 20

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(5):
            writer.write(post(size) + bytes(1 << 20))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            writer.write(bytes(size - (1 << 20)) + GET)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")

    ask(talk)


def test_what_is_refused_behind_requests_that_wait_ends_them_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET * 3 + b"\x16\x03\x01 hello\r\n\r\n")
        for _ in range(20):  # more than fits on the way: it is read, and thrown away
            writer.write(bytes(1 << 20))
            await writer.drain()
        answer = await until_closed(reader)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"HTTP/1.1 200" not in answer

    ask(talk)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("lines", [(), (b"Connection: close",)], ids=["kept", "to be closed"])
def test_the_rest_of_an_answered_body_has_a_limit(
    lines: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_REST_S", 0.3)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post(1000, *lines))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        for _ in range(100):
            writer.write(b"x")
            await asyncio.sleep(0.05)
            if writer.transport.is_closing():
                return
        raise AssertionError("it is still connected")

    ask(talk)


def test_an_answered_body_does_not_keep_a_server_that_is_to_end() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post(1000, b"Connection: close"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")

    ask(talk, ends_within=5)


@pytest.mark.parametrize("sent", [b"", GET[:20], GET + GET[:20]], ids=["nothing", "half", "one and a half"])
def test_who_sends_no_whole_head_is_not_kept(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "KEEP_ALIVE_S", 0.3)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert (await until_closed(reader)).count(b"HTTP/1.1 200") == sent.count(GET)

    ask(talk)


def test_what_is_no_http_is_told_as_a_problem() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, body = (await until_closed(reader)).partition(b"\r\n\r\n")
        assert b"application/problem+json" in head
        assert json.loads(body)["status"] == 400

    ask(talk)


def test_the_head_of_an_answer_leaves_with_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    answer = protocol.Protocol.answer

    def noted(self: protocol.Protocol, data: bytes) -> None:
        written.append(data)
        answer(self, data)

    monkeypatch.setattr(protocol.Protocol, "answer", noted)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
        found = await until_closed(reader)
        assert found.startswith(b"HTTP/1.1 200")
        assert found.endswith(b"\r\n\r\nhello")
        assert written == [found]

    ask(talk)


def test_there_is_an_answer_without_a_body_too() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(GET.replace(b"GET", b"HEAD"))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")

    ask(talk)


def test_of_an_answer_that_breaks_off_the_head_arrives(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET.replace(b"/ ", b"/broken "))
        assert (await until_closed(reader)).startswith(b"HTTP/1.1 200")

    ask(talk)
    assert "without completing response" in caplog.text


def test_what_is_answered_is_gone_without_the_garbage_collector() -> None:
    """Which would have to be waited for, pictures and all, and stops everything while it is at it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                writer.write(
                    b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
                )
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(b"hello")
                await reader.readuntil(b"\r\n\r\nhello")
            assert gc.collect() < 100
        finally:
            gc.enable()

    ask(talk)
