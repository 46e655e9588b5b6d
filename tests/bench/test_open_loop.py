"""The load generator of bench.slo, against servers that answer, tarry and break off."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from bench.open_loop import Answer, Request, replay

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def replayed(handler: Handler, requests: list[Request]) -> list[Answer]:
    async def run() -> list[Answer]:
        async with serving(handler) as base_url:
            return await asyncio.wait_for(replay(base_url, requests), 20)

    return uvloop.run(run())


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The query and the body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
    return head.split()[1].partition("?")[2], await reader.readexactly(length)


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Some\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def test_each_answer_belongs_to_its_request_over_kept_connections() -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                query, body = await read_request(reader)
                whole = answer(
                    429 if query == "q=3" else 200,
                    b'{"query": "%b", "bytes": %d}' % (query.encode(), len(body)),
                )
                writer.write(whole[:30])
                await asyncio.sleep(0.005)  # an answer may come in parts
                writer.write(whole[30:])
        writer.close()

    requests = [Request(at_ms=60 * i, budget_ms=50, query=f"q={i}", picture=b"x" * i) for i in range(5)]
    answers = replayed(handler, requests)
    assert [a.body for a in answers] == [{"query": f"q={i}", "bytes": i} for i in range(5)]
    assert [a.status for a in answers] == [200, 200, 200, 429, 200]
    assert [a.request for a in answers] == requests
    assert connections == 1


def test_arrivals_do_not_wait_for_answers() -> None:
    waiting = 0
    all_there = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting
        await read_request(reader)
        waiting += 1
        if waiting == 4:
            all_there.set()
        await all_there.wait()  # for ever, were they sent one after the other
        writer.write(answer(200, b"{}"))
        writer.close()

    answers = replayed(handler, [Request(i, 50, "", b"picture") for i in range(4)])
    assert [a.status for a in answers] == [200] * 4


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"no HTTP at all\r\n\r\n"]
)
def test_a_broken_answer_has_status_0_and_the_rest_goes_on(sent: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query, _ = await read_request(reader)
        writer.write(sent if query == "bad" else answer(200, b"{}"))
        writer.close()

    answers = replayed(handler, [Request(0, 50, "bad", b""), Request(50, 50, "good", b"")])
    assert [a.status for a in answers] == [0, 200]
