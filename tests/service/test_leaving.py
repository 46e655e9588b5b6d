"""Clients that leave, as a route that waits for its outcome learns of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from fastapi import Request

from service import errors
from service.middleware import CONNECTION_LOST
from service.outcomes import Submission
from service.routes.inference import run_while_connected
from service.scheduler import Scheduler

Run = Callable[[], Awaitable[str]]
SUBMISSION = cast(Submission[Any], None)


class Stub:
    def __init__(self, run: Run) -> None:
        self._run = run

    async def run(self, _: object) -> str:
        return await self._run()


async def served(run: Run, lost: "asyncio.Future[None]") -> object:
    request = Request({"type": "http", "headers": [], "extensions": {CONNECTION_LOST: lost}})
    return await run_while_connected(cast(Scheduler, Stub(run)), SUBMISSION, request)


def test_who_leaves_is_not_waited_for() -> None:
    async def go() -> None:
        lost = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, lost.set_result, None)
        with pytest.raises(errors.MalformedRequest, match="left before the answer"):
            await served(lambda: asyncio.sleep(20, ""), lost)
        await asyncio.sleep(0)

    asyncio.run(go())


def test_who_leaves_just_when_the_outcome_comes_cancels_nothing_that_follows() -> None:
    async def go() -> None:
        lost = asyncio.get_running_loop().create_future()

        async def run() -> str:
            lost.set_result(None)
            return "outcome"

        assert await served(run, lost) == "outcome"
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(go())
