"""What becomes of a request that is cancelled: cut off by the end of the service, or not."""

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.middleware import RequestContext

START: Message = {"type": "http.response.start", "status": 200, "headers": []}


async def _never() -> Message:
    return await asyncio.Future()


def _cancelled(*, draining: bool, started: bool = False) -> list[Message]:
    """What is sent for a request that is cancelled. Raises CancelledError where the task ends so."""
    sent: list[Message] = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        if started:
            await send(START)
        await receive()

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"x-request-id", b"mine")]}
        task = asyncio.ensure_future(RequestContext(app, lambda: draining)(scope, _never, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(run())
    return sent


def test_a_request_that_is_cut_off_at_the_end_is_told_so() -> None:
    """The server cancels what still runs when its patience ends, and would answer 500 with a traceback."""
    start, body = _cancelled(draining=True)
    headers = dict(start["headers"])
    assert start["status"] == 503
    assert headers[b"content-type"] == b"application/problem+json"
    assert (headers[b"retry-after"], headers[b"x-request-id"]) == (b"2", b"mine")
    assert json.loads(body["body"])["type"].endswith(":not-ready")


@pytest.mark.parametrize(("draining", "started"), [(False, False), (True, True)])
def test_any_other_request_that_is_cancelled_stays_so(*, draining: bool, started: bool) -> None:
    with pytest.raises(asyncio.CancelledError):
        _cancelled(draining=draining, started=started)
