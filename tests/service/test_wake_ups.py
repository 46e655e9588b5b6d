"""Threads of the scheduler that are slow to wake, and work that fails or cannot be loaded."""

import asyncio
import math
import threading
from typing import Any, cast

import pytest

from model_store.profile import DeviceProfile, Quantiles
from service import errors
from service.catalog import LoadedVariant
from service.clock import now_ms
from service.dispatch import Dispatcher
from service.jobs import Assignment, Job, Refusal
from service.latency import Expected, LatencyEstimates
from service.metrics import Metrics
from service.outcomes import Submission
from service.scheduler import Scheduler
from service.work import Ran

TOP1 = (0.7, 0.4)
EXPECTED = [Expected("large", 1.0, 16.0), Expected("small", 1.0, 1.0)]


def estimates(slower: float = 1.0) -> LatencyEstimates:
    times = {e.key: Quantiles(p50=slower * e.inference_ms, p95=slower * e.inference_ms) for e in EXPECTED}
    return LatencyEstimates(DeviceProfile(device="test", inference=times, decode={}))


class Task:
    """Work that takes a second or sixteen by its profile, and ends when `ends` is set."""

    size_bytes, accuracies, pinned, task = 1, TOP1, False, "test"

    def __init__(self, *, ends: bool = True) -> None:
        self.started, self.ends = threading.Event(), threading.Event()
        if ends:
            self.ends.set()

    def expected(self, estimates: LatencyEstimates) -> list[Expected]:
        return [Expected(e.key, e.decode_ms, 1000 * e.inference_ms) for e in EXPECTED]

    def run(self, assignment: Assignment) -> Ran[str]:
        self.started.set()
        assert self.ends.wait(20)
        name = threading.current_thread().name
        variant = cast(LoadedVariant, None)
        return Ran(name, variant, assignment.expected, 0.0, assignment.expected.inference_ms)


class Watched(threading.Condition):
    """Says when a thread waits. One that was told goes on when the test lets it, as where other threads hold
    the interpreter."""

    def __init__(self, of: threading.Condition) -> None:
        super().__init__(cast(Any, of)._lock)
        self.waits, self.goes_on = threading.Event(), threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.set()
        woken = super().wait(timeout)
        self.release()
        assert self.goes_on.wait(20)
        self.acquire()
        return woken


def test_one_that_comes_while_another_is_about_to_run_ahead_finds_the_idle_worker() -> None:
    dispatcher = Dispatcher(estimates(1000), 1, max_length=10, max_bytes=100, preempts=True)
    scheduler = Scheduler(dispatcher, Metrics())
    changed, hurries = Watched(scheduler._changed), Watched(scheduler._changed)
    scheduler._changed, scheduler._hurried = changed, hurries
    changed.goes_on.set()
    scheduler.start()

    async def go() -> None:
        relaxed, hurried, third = Task(ends=False), Task(), Task()
        assert await asyncio.to_thread(hurries.waits.wait, 5)
        first = asyncio.ensure_future(scheduler.run(Submission(relaxed, now_ms(), 1e6, False)))
        assert await asyncio.to_thread(relaxed.started.wait, 5)
        second = asyncio.ensure_future(scheduler.run(Submission(hurried, now_ms(), 12_000, True)))
        await asyncio.sleep(0)
        assert dispatcher.hurries
        changed.waits.clear()
        relaxed.ends.set()
        await first
        assert await asyncio.to_thread(changed.waits.wait, 5)
        assert dispatcher.hurries
        last = scheduler.run(Submission(third, now_ms(), None, False))
        outcome = await asyncio.wait_for(last, 5)
        assert outcome.result == "inference-0"
        hurries.goes_on.set()
        assert (await second).result == "inference-ahead"

    asyncio.run(go())
    scheduler.stop()


def test_runs_that_fail_are_no_reason_to_believe_what_was_learned_before() -> None:
    dispatcher = Dispatcher(estimates(), 1, max_length=100, max_bytes=1 << 30)

    def run(now: float, *, fails: bool) -> None:
        dispatcher.admit(Job(EXPECTED, TOP1, now, None), now)
        taken = dispatcher.next(now)
        assert isinstance(taken, Assignment)
        service_ms = taken.expected.service_ms
        dispatcher.finish(taken, now + service_ms, None if fails else taken.expected.inference_ms)

    for i in range(60):  # answers leave late
        run(50.0 * i, fails=False)
        dispatcher.answered(30.0)
    urgent = Job(EXPECTED, TOP1, 3000, 3020, reject_late=True)
    assert dispatcher.idle_fastest_ms(urgent, 3000) > 20
    for now in range(3500, 6000, 500):
        run(now, fails=True)
    urgent = Job(EXPECTED, TOP1, 6000, 6020, reject_late=True)
    assert dispatcher.idle_fastest_ms(urgent, 6000) < 20


def test_work_that_cannot_be_loaded_costs_the_others_nothing() -> None:
    class Gone:
        load_ms = math.inf

    dispatcher = Dispatcher(estimates(), 1, max_length=100, max_bytes=1 << 30)
    gone = [Expected(e.key, e.decode_ms, e.inference_ms, needs=(Gone(),)) for e in EXPECTED]
    dispatcher.admit(Job(gone, TOP1, 0.0, None, pinned=0), 0.0)
    taken = dispatcher.next(0.0)
    assert isinstance(taken, Assignment)
    dispatcher.finish(taken, 1.0, None)
    later = 1e6
    for i in range(70):
        now = later + 100.0 * i
        dispatcher.admit(Job(EXPECTED, TOP1, now, now + 90), now)
        found = dispatcher.next(now)
        assert isinstance(found, Assignment)
        assert (found.index, found.decision) == (0, "fits")
        dispatcher.finish(found, now + 17, 16.0)


class Endless(Dispatcher):
    def admit(self, job: Job, now: float) -> Refusal | None:
        return Refusal("late", math.inf)

    def idle_fastest_ms(self, job: Job, now: float) -> float:
        return math.inf


@pytest.mark.parametrize(("reject", "error"), [(False, errors.Overloaded), (True, errors.NotReady)])
def test_an_endless_wait_is_told_in_numbers(reject: bool, error: type[errors.Problem]) -> None:
    scheduler = Scheduler(Endless(estimates(), 1, max_length=1, max_bytes=1), Metrics())
    with pytest.raises(error) as refused:
        asyncio.run(scheduler.run(Submission(Task(), now_ms(), 10.0, reject)))
    assert math.inf not in refused.value.extra.values()
