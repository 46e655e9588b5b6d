"""Requests in a hurry that run ahead of what has started, while all workers are busy."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from model_store.profile import DeviceProfile, Quantiles
from service.catalog import LoadedVariant
from service.clock import now_ms
from service.dispatch import Dispatcher
from service.jobs import Assignment, Job
from service.latency import Expected, LatencyEstimates
from service.metrics import Metrics
from service.outcomes import Outcome, Submission
from service.scheduler import Scheduler
from service.work import Ran
from tests.service.dispatching import (
    EXPECTED,
    FASTEST_MS,
    TOP1,
    admitted,
    assigned,
    dispatcher,
    finished,
    job,
)

LARGEST_MS = EXPECTED[0].service_ms


def busy(budget: float | None = 1000.0, pinned: int | None = None) -> tuple[Dispatcher, Job]:
    """One worker, which has started the largest variant."""
    d = dispatcher(preempts=True)
    (relaxed,) = admitted(d, [job(budget, pinned=pinned)])
    assert assigned(d, 0.0).index == 0
    return d, relaxed


def ahead(d: Dispatcher) -> Assignment:
    taken = d.next_ahead()
    assert taken is not None
    return taken


@pytest.mark.parametrize("reject", [False, True])
@pytest.mark.parametrize("budget", [None, 1000.0])
def test_one_in_a_hurry_runs_ahead_of_one_that_has_time(budget: float | None, reject: bool) -> None:
    d, relaxed = busy(budget)
    hurried = job(14, 1.0, reject=reject)
    assert d.admit(hurried, 1.0) is None
    assert d.hurries
    assert (len(d), d.running) == (0, 1)  # it never waits, and takes no worker
    taken = ahead(d)
    assert taken.job is hurried
    assert taken.ahead_of is relaxed
    assert taken.bound_ms <= 14
    assert (taken.index, taken.decision) == (2, "degraded")  # 1 would fit were the device idle
    assert not d.hurries
    assert d.next_ahead() is None


def test_who_is_held_up_is_told_so_and_expected_later() -> None:
    d, relaxed = busy()
    admitted(d, [job(12)])
    taken = ahead(d)
    assert relaxed.held_up_ms >= taken.expected.service_ms
    late = d.admit(job(LARGEST_MS + FASTEST_MS + 2, reject=True), 0.0)
    assert late is not None  # it would have waited for the largest alone
    assert late.retry_after_ms >= relaxed.held_up_ms - 3


def test_nobody_is_held_up_who_would_be_late_or_has_been_already() -> None:
    d, relaxed = busy(25.0, pinned=0)
    admitted(d, [job(12)])
    assert not d.hurries
    assert relaxed.held_up_ms == 0
    d, relaxed = busy()
    admitted(d, [job(12)])
    finished(d, ahead(d), 5.0)
    admitted(d, [job(10, 5.0)], 5.0)
    assert not d.hurries
    assert len(d) == 1


def test_the_one_with_the_most_time_is_held_up() -> None:
    d = dispatcher(2, preempts=True)
    some, much = admitted(d, [job(60), job(900)])
    assert {assigned(d, 0.0).job, assigned(d, 0.0).job} == {some, much}
    admitted(d, [job(10)])
    assert ahead(d).ahead_of is much


def test_one_at_a_time_and_not_while_a_worker_is_free() -> None:
    d = dispatcher(2, preempts=True)
    admitted(d, [job(900)])
    assigned(d, 0.0)
    admitted(d, [job(10)])
    assert not d.hurries
    assert assigned(d, 0.0).job.deadline == 10
    first, second = job(12, 0.5), job(12, 0.5)
    admitted(d, [first], 0.5)
    assert ahead(d).job is first
    admitted(d, [second], 0.5)
    assert not d.hurries
    assert len(d) == 1


def test_who_can_wait_as_well_waits() -> None:
    d, _ = busy()
    admitted(d, [job(100, 1.0)], 1.0)
    assert not d.hurries
    d, _ = busy()
    admitted(d, [job(20, LARGEST_MS - 0.5)], LARGEST_MS - 0.5)  # a worker is about to be free
    assert not d.hurries


def test_nobody_overtakes_one_that_is_due_before_it() -> None:
    d, _ = busy()
    admitted(d, [job(9, 0.0), job(9, 0.5)])  # the second finds the first running, and waits
    ahead(d)
    admitted(d, [job(12, 1.0)], 1.0)
    assert not d.hurries
    assert len(d) == 2


def test_a_pinned_variant_runs_ahead_as_it_is() -> None:
    d, _ = busy()
    admitted(d, [job(12, pinned=2)])
    taken = ahead(d)
    assert (taken.index, taken.decision) == (2, "pinned")
    d, _ = busy()
    admitted(d, [job(12, pinned=0)])  # not even so in time
    assert not d.hurries


def rounds(d: Dispatcher, count: int, factor: float) -> Assignment | None:
    """A relaxed one of the largest variant and one in a hurry, again and again, the second `factor` times as
    long as on a core of its own; the last that ran ahead, or None once nothing would be in time."""
    taken = None
    for i in range(count):
        now = 10_000.0 * i
        admitted(d, [job(1000, now, pinned=0)], now)
        relaxed = assigned(d, now)
        admitted(d, [job(14, now, reject=True)], now)
        if (taken := d.next_ahead()) is None:
            return None
        finished(d, taken, now + factor * taken.expected.service_ms)
        finished(d, relaxed, now + 50)
    return taken


def test_it_learns_how_much_of_a_core_the_system_gives() -> None:
    whole = rounds(dispatcher(preempts=True), 60, 1.0)
    assert whole is not None
    assert whole.index == 1
    assert whole.bound_ms == pytest.approx(EXPECTED[1].service_ms + 0.7, abs=0.5)
    half = rounds(dispatcher(preempts=True), 60, 2.0)
    assert half is not None
    assert half.index == 2
    assert half.bound_ms == pytest.approx(2 * EXPECTED[2].service_ms + 0.7, abs=0.5)


def test_runs_that_were_held_up_teach_nothing_of_the_variant() -> None:
    d = dispatcher(preempts=True)
    before = d.estimates.work_ms(EXPECTED[0])
    assert rounds(d, 40, 1.0) is not None
    assert d.estimates.work_ms(EXPECTED[0]) == before


def test_without_a_thread_for_it_everybody_waits() -> None:
    d = dispatcher()
    admitted(d, [job(1000)])
    assigned(d, 0.0)
    admitted(d, [job(12)])
    assert not d.hurries
    assert len(d) == 1


class Task:
    """Work of one kind, which waits for others where it is told to."""

    size_bytes, accuracies, pinned, task = 1, TOP1, False, "test"

    def __init__(self, waits_for: threading.Event | None = None) -> None:
        self.started, self.done, self._waits_for = threading.Event(), threading.Event(), waits_for

    def expected(self, estimates: LatencyEstimates) -> list[Expected]:
        return [Expected(e.key, e.decode_ms, 1000 * e.inference_ms) for e in EXPECTED]

    def run(self, assignment: Assignment) -> Ran[str]:
        self.started.set()
        if self._waits_for is not None:
            assert self._waits_for.wait(20)
        self.done.set()
        variant: LoadedVariant = None  # type: ignore[assignment]
        return Ran(threading.current_thread().name, variant, assignment.expected, 0.0, 1.0)


def test_the_scheduler_runs_it_beside_the_busy_workers() -> None:
    inference = {e.key: Quantiles(p50=1000 * e.inference_ms, p95=1000 * e.inference_ms) for e in EXPECTED}
    estimates = LatencyEstimates(DeviceProfile(device="test", inference=inference))
    d = Dispatcher(estimates, 1, max_length=10, max_bytes=100, preempts=True)
    scheduler = Scheduler(d, Metrics())
    scheduler.start()
    hurried = Task()
    relaxed = Task(waits_for=hurried.done)  # for ever, could the other not run beside it

    async def serve() -> Sequence[Outcome[str]]:
        first = asyncio.ensure_future(scheduler.run(Submission(relaxed, now_ms(), 1e6, False)))
        await asyncio.to_thread(relaxed.started.wait, 20)
        second = scheduler.run(Submission(hurried, now_ms(), 12_000, True))
        return await asyncio.gather(first, second)

    outcomes = asyncio.run(serve())
    scheduler.stop()
    assert [outcome.result for outcome in outcomes] == ["inference-0", "inference-ahead"]
    assert outcomes[0].bound_ms >= outcomes[0].assignment.bound_ms + outcomes[0].assignment.job.held_up_ms
    assert not scheduler._cpus
