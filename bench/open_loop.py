"""An open-loop HTTP client: requests leave at their times, whether or not earlier ones were answered."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Request:
    """`at_ms` after the start; `budget_ms` is what the answer is judged by, asked for or not."""

    at_ms: float
    budget_ms: float
    query: str
    picture: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`total_ms` from the wanted time of sending to the whole answer, as the client sees it."""

    request: Request
    status: int
    total_ms: float
    body: dict[str, object]


async def replay(base_url: str, requests: Sequence[Request]) -> list[Answer]:
    """Sends all requests at their times over as many keep-alive connections as that needs."""
    address = urlsplit(base_url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    idle: list[Connection] = []
    start = time.perf_counter() + 0.1

    async def send(request: Request) -> Answer:
        wanted = start + request.at_ms / 1e3
        await asyncio.sleep(max(0.0, wanted - time.perf_counter()))
        while idle and idle[-1][0].at_eof():  # closed by the server after some idle seconds
            idle.pop()[1].close()
        connection = idle.pop() if idle else await asyncio.open_connection(host, port)
        try:
            status, body = await _exchange(connection, host, request)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            connection[1].close()
            return Answer(request, 0, (time.perf_counter() - wanted) * 1e3, {})
        idle.append(connection)
        return Answer(request, status, (time.perf_counter() - wanted) * 1e3, body)

    answers = await asyncio.gather(*(send(request) for request in requests))
    for _, writer in idle:
        writer.close()
    return answers


async def _exchange(connection: Connection, host: str, request: Request) -> tuple[int, dict[str, object]]:
    reader, writer = connection
    head = (
        f"POST /v1/classify?{request.query} HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {len(request.picture)}\r\n\r\n"
    )
    writer.write(head.encode() + request.picture)
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    body = json.loads(await reader.readexactly(int(headers["content-length"])))
    return int(status_line.split()[1]), body
