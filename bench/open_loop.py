"""An open-loop HTTP client: requests leave at their times, whether or not earlier ones were answered.

It shares the CPUs with the server that it loads, and in a burst what it takes itself would be measured as the
server's: it parses with httptools, sends a picture without a copy, and reads JSON only when all is over. Run
it with `uvloop.run`.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True, slots=True)
class Request:
    """`at_ms` after the start; `budget_ms` is what the answer is judged by, asked for or not."""

    at_ms: float
    budget_ms: float
    query: str
    picture: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`total_ms` from the wanted time of sending to the whole answer, as the client sees it. `status` 0 is a
    connection that was refused, or lost before the answer."""

    request: Request
    status: int
    total_ms: float
    body: dict[str, object]


async def replay(base_url: str, requests: Sequence[Request]) -> list[Answer]:
    """Sends all requests at their times over as many keep-alive connections as that needs."""
    address = urlsplit(base_url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    loop = asyncio.get_running_loop()
    idle: list[_Connection] = []
    start = time.perf_counter() + 0.1

    async def send(request: Request) -> tuple[int, float, bytes]:
        head = (
            f"POST /v1/classify?{request.query} HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Type: image/jpeg\r\nContent-Length: {len(request.picture)}\r\n\r\n"
        ).encode()
        wanted = start + request.at_ms / 1e3
        await asyncio.sleep(max(0.0, wanted - time.perf_counter()))
        while idle and idle[-1].closed:  # by the server, after some idle seconds
            idle.pop()
        try:
            connection = idle.pop() if idle else (await loop.create_connection(_Connection, host, port))[1]
            status, body = await connection.exchange(head, request.picture)
        except OSError:
            return 0, time.perf_counter() - wanted, b"{}"
        idle.append(connection)
        return status, time.perf_counter() - wanted, body

    found = await asyncio.gather(*(send(request) for request in requests))
    for connection in idle:
        connection.close()
    return [
        Answer(request, status, seconds * 1e3, json.loads(body))
        for request, (status, seconds, body) in zip(requests, found, strict=True)
    ]


class _Connection(asyncio.Protocol):
    """One keep-alive connection, with one exchange at a time."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self.closed = False
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def exchange(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises OSError when the connection is lost, or what comes is
        no HTTP."""
        if self.closed:
            raise ConnectionResetError("closed before the request")
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._transport.writelines([head, body])
        return await self._answer

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._transport.close()
            self._fail(ConnectionError(f"not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._fail(ConnectionResetError(str(exc or "closed by the server")))

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), self._body))

    def _fail(self, error: OSError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
