"""The dispatcher where one picture may have the threads of all workers."""

import pytest

from model_store.profile import DeviceProfile, Quantiles
from service.dispatch import _LONELY, Dispatcher
from service.jobs import Assignment, Job
from service.latency import Expected, LatencyEstimates
from tests.service.dispatching import admitted, assigned, finished

PARALLEL = [
    Expected("v0", 1.0, 16.0),
    Expected("v0/2 threads", 1.0, 8.0, threads=2),
    Expected("v1", 1.0, 6.0),
]


def parallel_dispatcher() -> Dispatcher:
    inference = {e.key: Quantiles(p50=e.inference_ms, p95=e.inference_ms) for e in PARALLEL}
    profile = DeviceProfile(device="test", inference=inference)
    return Dispatcher(LatencyEstimates(profile), 2, max_length=100, max_bytes=1 << 30)


def parallel_job(budget: float | None, now: float = 0.0, *, reject: bool = False) -> Job:
    deadline = None if budget is None else now + budget
    return Job(PARALLEL, (0.7, 0.7, 0.6), now, deadline, reject_late=reject)


def test_all_threads_serve_one_request_where_one_thread_would_be_too_slow() -> None:
    d = parallel_dispatcher()
    admitted(d, [parallel_job(20)])
    taken = assigned(d, 0.0)
    assert (taken.index, taken.threads, taken.decision) == (1, 2, "fits")
    # The other worker is kept free for its threads, and whoever comes waits for it.
    admitted(d, [parallel_job(15, 1.0)], 1.0)
    assert d.next(1.0) is None
    late = d.admit(parallel_job(12, 1.0, reject=True), 1.0)
    assert late is not None
    assert late.reason == "late"
    finished(d, taken, 9.0)
    assert assigned(d, 9.0).index == 2


def test_one_thread_serves_where_it_is_enough_or_another_request_is_there() -> None:
    d = parallel_dispatcher()
    admitted(d, [parallel_job(50)])
    relaxed = assigned(d, 0.0)
    assert (relaxed.index, relaxed.threads) == (0, 1)
    admitted(d, [parallel_job(20)])
    assert assigned(d, 0.0).threads == 1  # one worker is at something
    d = parallel_dispatcher()
    admitted(d, [parallel_job(20), parallel_job(20)])
    assert [assigned(d, 0.0).threads for _ in range(2)] == [1, 1]


def answered_alone(d: Dispatcher, requests: int, start: float = 0.0) -> list[Assignment]:
    """Without a budget, each long after the one before was done."""
    taken = []
    for i in range(requests):
        now = start + 50.0 * i
        admitted(d, [parallel_job(None, now)], now)
        taken.append(assigned(d, now))
        finished(d, taken[-1], now + taken[-1].expected.service_ms)
    return taken


@pytest.mark.parametrize("pinned", [None, 0])
def test_without_a_budget_all_threads_serve_one_who_has_been_alone_for_long(pinned: int | None) -> None:
    d = parallel_dispatcher()
    assert {taken.threads for taken in answered_alone(d, _LONELY - 1)} == {1}
    now = 1_000.0
    lonely = parallel_job(None, now)
    lonely.pinned = pinned
    admitted(d, [lonely], now)
    taken = assigned(d, now)
    assert (taken.index, taken.threads) == (1, 2)
    assert taken.decision == ("unbounded" if pinned is None else "pinned")
    # Whoever comes meanwhile is answered next, and all have one thread from then on.
    admitted(d, [parallel_job(None, now + 1)], now + 1)
    assert d.next(now + 1) is None
    finished(d, taken, now + 9)
    second = assigned(d, now + 9)
    finished(d, second, now + 26)
    admitted(d, [parallel_job(None, now + 50)], now + 50)
    assert (second.threads, assigned(d, now + 50).threads) == (1, 1)


@pytest.mark.parametrize(("one_ms", "all_ms", "threads"), [(17, 6, 2), (9, 30, 1)])
def test_which_is_faster_is_learned_from_runs_whatever_the_profile_says(
    one_ms: float, all_ms: float, threads: int
) -> None:
    """By the profile it is 17 ms with one thread and 9 with all; and the other way round where it takes 6
    with all, on a machine that was busy when it was measured."""
    expected = PARALLEL
    if threads == 2:
        expected = [Expected("v0", 1.0, 8.0), Expected("v0/2 threads", 1.0, 8.5, threads=2), PARALLEL[2]]
    inference = {e.key: Quantiles(p50=e.inference_ms, p95=e.inference_ms) for e in expected}
    profile = DeviceProfile(device="test", inference=inference)
    d = Dispatcher(LatencyEstimates(profile), 2, max_length=100, max_bytes=1 << 30)
    taken = []
    for i in range(400):
        now = 50.0 * i
        admitted(d, [Job(expected, (0.7, 0.7, 0.6), now, None)], now)
        taken.append(assigned(d, now))
        ms = all_ms if taken[-1].threads == 2 else one_ms
        d.finish(taken[-1], now + ms, ms - 1.0)
    last = [each.threads for each in taken[-64:]]
    assert last.count(threads) == 60  # and the others are tried


def test_a_pinned_variant_with_a_budget_has_one_thread() -> None:
    d = parallel_dispatcher()
    answered_alone(d, 2 * _LONELY)
    now = 1_000.0
    hurried = parallel_job(12, now)
    hurried.pinned = 0
    admitted(d, [hurried], now)
    assert assigned(d, now).threads == 1


def test_nobody_takes_all_threads_where_others_in_a_hurry_come_soon_after_one_another() -> None:
    d = parallel_dispatcher()
    for start in range(0, 3_000, 75):
        admitted(d, [parallel_job(12, start)], start)
        first = assigned(d, start)
        admitted(d, [parallel_job(12, start + 3)], start + 3)
        done = start + first.expected.service_ms
        finished(d, first, done)
        second = assigned(d, done)
        finished(d, second, done + second.expected.service_ms)
    assert {taken.threads for taken in answered_alone(d, 2 * _LONELY, 3_000.0)} == {1}


def test_a_failed_run_of_all_threads_frees_the_workers() -> None:
    d = parallel_dispatcher()
    admitted(d, [parallel_job(20), parallel_job(None)])
    d.cancel(d._queue.jobs[1])
    taken = assigned(d, 0.0)
    assert taken.threads == 2
    d.finish(taken, 3.0, None)
    admitted(d, [parallel_job(20, 3.0)], 3.0)
    assert assigned(d, 3.0).threads == 2
