"""The turnstile on a real event loop: answers first, the urgent first, and no waiting without a burst."""

import asyncio
import math

import pytest

from service import errors
from service.clock import now_ms
from service.metrics import Metrics
from service.scheduler import Scheduler
from service.turnstile import TooFarBehind, Turnstile
from tests.service.dispatching import dispatcher


async def _pass(turnstile: Turnstile, due: float, passed: list[float], latest: float = math.inf) -> None:
    await turnstile.enter(due, latest)
    passed.append(due)


def test_who_comes_alone_does_not_wait_for_the_loop() -> None:
    async def alone() -> None:
        entering = Turnstile().enter(0.0)
        with pytest.raises(StopIteration):  # a coroutine that did not wait once
            entering.send(None)

    asyncio.run(alone())


def test_a_burst_is_let_in_by_urgency() -> None:
    async def burst() -> list[float]:
        turnstile, passed = Turnstile(), list[float]()
        await asyncio.gather(*(_pass(turnstile, due, passed) for due in (500, 40, 300, 20, 300, 10)))
        assert len(turnstile) == 0
        return passed

    # The first found nobody there.
    assert asyncio.run(burst()) == [500, 10, 20, 40, 300, 300]


def test_an_answer_that_is_ready_does_not_wait_for_a_burst() -> None:
    async def burst() -> int:
        turnstile, passed = Turnstile(), list[float]()
        loop = asyncio.get_running_loop()
        at_answer: list[int] = []
        requests = [asyncio.ensure_future(_pass(turnstile, i, passed)) for i in range(100)]
        await asyncio.sleep(0)  # the first has gone in, and all others wait
        before = len(passed)
        loop.call_soon_threadsafe(lambda: at_answer.append(len(passed) - before))
        await asyncio.gather(*requests)
        assert len(passed) == 100
        return at_answer[0]

    assert asyncio.run(burst()) <= 2


def test_each_turn_lets_in_one_even_where_new_ones_keep_coming() -> None:
    async def stream() -> list[int]:
        turnstile, passed = Turnstile(), list[float]()
        counts, requests = [], []
        for i in range(30):
            requests += [asyncio.ensure_future(_pass(turnstile, i, passed)) for _ in range(3)]
            before = len(passed)
            await asyncio.sleep(0)
            counts.append(len(passed) - before)
        await asyncio.gather(*requests)
        assert len(passed) == 90
        return counts

    assert max(asyncio.run(stream())) <= 2  # one waits in no turn: the first of the burst


def test_who_would_be_let_in_too_late_is_told_at_once() -> None:
    now = 0.0

    async def burst() -> None:
        nonlocal now
        turnstile, passed = Turnstile(lambda: now), list[float]()
        waiting = [asyncio.ensure_future(_pass(turnstile, 100, passed)) for _ in range(100)]
        for _ in range(40):  # each turn takes 2 ms: that is learned
            await asyncio.sleep(0)
            now += 2
        behind = len(turnstile)
        assert behind > 30
        with pytest.raises(TooFarBehind) as refused:
            await turnstile.enter(200.0, now + behind)  # half the time that those ahead need
        assert refused.value.late_ms == pytest.approx(behind, rel=0.15)
        assert len(turnstile) == behind
        urgent = asyncio.ensure_future(_pass(turnstile, 1, passed, now + behind))  # nobody is ahead of it
        await asyncio.gather(urgent, *waiting)
        assert passed.index(1) < 50
        await turnstile.enter(0.0, -math.inf)  # with nobody there, any time is early enough

    asyncio.run(burst())


def test_after_a_stall_nobody_is_refused_for_it() -> None:
    now = 0.0

    async def stalled() -> None:
        nonlocal now
        turnstile, passed = Turnstile(lambda: now), list[float]()
        await turnstile.enter(0.0)
        now += 5000  # the machine did something else
        await asyncio.sleep(0)
        await turnstile.enter(now)
        await asyncio.gather(*(_pass(turnstile, now + 15, passed, now + 15) for _ in range(10)))
        assert len(passed) == 10

    asyncio.run(stalled())


def test_who_gave_up_holds_nobody_back() -> None:
    async def burst() -> list[float]:
        turnstile, passed = Turnstile(), list[float]()
        requests = [asyncio.ensure_future(_pass(turnstile, i, passed)) for i in range(10)]
        await asyncio.sleep(0)
        for request in requests[3:8]:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await turnstile.enter(0.0)
        return passed

    assert asyncio.run(burst()) == [0, 1, 2, 8, 9]


def test_a_burst_is_let_in_in_turn_and_who_would_be_too_late_is_refused() -> None:
    scheduler = Scheduler(dispatcher(), Metrics())

    async def burst() -> None:
        waiting = [
            asyncio.ensure_future(scheduler.let_in(now_ms(), 1000, reject_late=True)) for _ in range(50)
        ]
        await asyncio.sleep(0)
        with pytest.raises(errors.Overloaded) as refused:
            await scheduler.let_in(now_ms() - 1020, 1000, reject_late=True)
        assert refused.value.headers == {"Retry-After": "1"}
        assert refused.value.extra["retry_after_ms"] >= 20
        # The same without insisting is let in, and so is one without a budget.
        await scheduler.let_in(now_ms() - 1020, 1000, reject_late=False)
        await scheduler.let_in(now_ms() - 1020, None, reject_late=True)
        await asyncio.gather(*waiting)

    asyncio.run(burst())
