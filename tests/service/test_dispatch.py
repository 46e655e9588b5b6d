"""The dispatcher, driven step by step: order, limits, refusals, and that everyone is answered once."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.profile import DeviceProfile, Quantiles
from service.dispatch import LATE_PATIENCE_MS, UNBOUNDED_PATIENCE_MS, Assignment, Dispatcher, Job, Refusal
from service.latency import ANSWER_MS, Expected, LatencyEstimates

COSTS_MS = (16.0, 8.0, 4.0, 1.0)
TOP1 = (0.7, 0.65, 0.6, 0.4)
EXPECTED = [Expected(f"v{i}", 1.0, ms) for i, ms in enumerate(COSTS_MS)]
FASTEST_MS = 2.0  # with decoding


def dispatcher(workers: int = 1, max_length: int = 100, max_bytes: int = 1 << 30) -> Dispatcher:
    inference = {e.key: Quantiles(p50=e.inference_ms, p95=e.inference_ms) for e in EXPECTED}
    profile = DeviceProfile(device="test", inference=inference)
    return Dispatcher(LatencyEstimates(profile), workers, max_length=max_length, max_bytes=max_bytes)


def job(
    budget: float | None,
    now: float = 0.0,
    *,
    size: int = 10,
    pinned: int | None = None,
    reject: bool = False,
    payload: object = None,
) -> Job:
    deadline = None if budget is None else now + budget
    return Job(EXPECTED, TOP1, now, deadline, size, pinned, reject, payload)


def admitted(d: Dispatcher, jobs: Iterable[Job], now: float = 0.0) -> list[Job]:
    taken = list(jobs)
    for each in taken:
        assert d.admit(each, now) is None
    return taken


def assigned(d: Dispatcher, now: float) -> Assignment:
    taken = d.next(now)
    assert isinstance(taken, Assignment)
    return taken


def finished(d: Dispatcher, done: Assignment, now: float) -> None:
    d.finish(done, now, done.job.expected[done.index].inference_ms)
    d.answered(done, now + ANSWER_MS, ANSWER_MS)


def in_order(d: Dispatcher, now: float) -> list[Job]:
    """What one worker runs, each job in its expected time."""
    order = []
    while (taken := d.next(now)) is not None:
        assert isinstance(taken, Assignment)
        now += taken.job.expected[taken.index].service_ms
        finished(d, taken, now)
        order.append(taken.job)
    return order


def test_the_earliest_deadline_runs_first_and_equals_in_their_order() -> None:
    d = dispatcher()
    jobs = admitted(d, [job(b) for b in (900, 500, 700, 500, 800)])
    assert in_order(d, 0.0) == [jobs[i] for i in (1, 3, 2, 4, 0)]


@settings(deadline=None)
@given(st.lists(st.integers(2000, 5000), min_size=1, max_size=30), st.integers(1, 4))
def test_deadlines_order_whatever_the_order_of_arrival(budgets: list[int], workers: int) -> None:
    d = dispatcher(workers)
    jobs = admitted(d, [job(b) for b in budgets])
    order = in_order(d, 0.0)
    assert order == sorted(jobs, key=lambda j: j.deadline or 0)  # stable: equals as they came


def test_a_deadline_counts_from_the_arrival_not_from_the_queueing() -> None:
    d = dispatcher()
    slow_upload = Job(EXPECTED, TOP1, -400.0, 100.0)
    quick = job(200)
    admitted(d, [quick, slow_upload])
    assert assigned(d, 0.0).job is slow_upload


def test_requests_without_a_budget_run_after_those_with_one() -> None:
    d = dispatcher()
    patient, hurried, relaxed = admitted(d, [job(None), job(50), job(1000)])
    assert in_order(d, 0.0) == [hurried, relaxed, patient]


def test_requests_without_a_budget_get_the_most_accurate_variant() -> None:
    d = dispatcher()
    admitted(d, [job(None) for _ in range(40)])
    taken = assigned(d, 0.0)
    assert (taken.index, taken.decision) == (0, "unbounded")


def test_a_request_without_a_budget_is_not_starved_by_a_steady_overload() -> None:
    d = dispatcher()
    patient = job(None)
    admitted(d, [patient])
    now, served_at = 0.0, math.nan
    while math.isnan(served_at) and now < 3 * UNBOUNDED_PATIENCE_MS:
        for _ in range(3):  # more than the worker can do
            d.admit(job(100, now), now)
        taken = assigned(d, now)
        if taken.job is patient:
            served_at = now
        now += taken.job.expected[taken.index].service_ms
        finished(d, taken, now)
    assert served_at <= UNBOUNDED_PATIENCE_MS + 100


def test_a_late_request_is_not_starved_by_a_steady_overload() -> None:
    d = dispatcher()
    late = job(1)
    admitted(d, [late, job(100)])
    now, served_at = 10.0, math.nan
    while math.isnan(served_at) and now < 10 * LATE_PATIENCE_MS:
        d.admit(job(100, now), now)
        taken = assigned(d, now)
        if taken.job is late:
            served_at = now
        now += taken.job.expected[taken.index].service_ms
        finished(d, taken, now)
    assert served_at <= LATE_PATIENCE_MS + 100


def test_late_requests_go_behind_those_that_can_be_on_time() -> None:
    d = dispatcher()
    late, later, fine, relaxed = admitted(d, [job(5), job(8), job(60), job(300)])
    assert in_order(d, 20.0) == [fine, relaxed, late, later]


def test_a_pinned_request_that_is_late_goes_behind_those_that_can_be_on_time() -> None:
    d = dispatcher()
    late, fine = admitted(d, [job(5, pinned=0), job(30)])
    assert in_order(d, 20.0) == [fine, late]


def test_a_late_request_alone_runs_at_once_with_the_fastest_variant() -> None:
    d = dispatcher()
    admitted(d, [job(50)])
    taken = assigned(d, 60.0)
    assert (taken.index, taken.decision) == (3, "degraded")
    d = dispatcher()
    admitted(d, [job(2)])
    taken = assigned(d, 0.0)
    assert (taken.index, taken.decision) == (3, "infeasible")


@pytest.mark.parametrize("pinned", [None, 0])
def test_one_that_insists_and_is_too_late_is_given_back(pinned: int | None) -> None:
    d = dispatcher()
    insists = job(50, reject=True, pinned=pinned)
    admitted(d, [insists])
    assert d.next(50.0) is insists
    assert (len(d), d.running, d.queued_bytes) == (0, 0, 0)


@pytest.mark.parametrize("pinned", range(4))
@pytest.mark.parametrize("budget", [None, 1, 3, 20, 500])
def test_pinned_runs_its_variant(pinned: int, budget: float | None) -> None:
    d = dispatcher()
    admitted(d, [job(budget, pinned=pinned), *(job(1000) for _ in range(40))])
    taken = [assigned(d, 0.0) for _ in range(41)]
    (own,) = (t for t in taken if t.job.pinned is not None)
    assert (own.index, own.decision) == (pinned, "pinned")


@pytest.mark.parametrize(("budget", "index"), [(100, 0), (15, 1), (8, 2), (4, 3)])
def test_alone_the_most_accurate_that_fits(budget: float, index: int) -> None:
    d = dispatcher()
    admitted(d, [job(budget)])
    taken = assigned(d, 0.0)
    assert (taken.index, taken.decision) == (index, "fits")
    assert taken.median_ms < taken.bound_ms <= budget
    assert taken.median_ms == pytest.approx(EXPECTED[index].service_ms + ANSWER_MS)


def test_with_others_behind_a_smaller_variant_runs() -> None:
    d = dispatcher()
    admitted(d, [job(60) for _ in range(8)])
    taken = assigned(d, 0.0)
    assert taken.index > 0
    assert taken.decision == "degraded"


def test_the_length_is_limited_exactly() -> None:
    d = dispatcher(max_length=3)
    waiting = admitted(d, [job(500) for _ in range(3)])
    refusal = d.admit(job(500), 0.0)
    assert isinstance(refusal, Refusal)
    assert refusal.full
    assert refusal.retry_after_ms > 0
    assigned(d, 0.0)
    admitted(d, [job(500)])
    assert d.admit(job(None), 0.0) is not None
    assert d.cancel(waiting[2])
    admitted(d, [job(None)])


def test_the_bytes_are_limited_exactly() -> None:
    d = dispatcher(max_bytes=100)
    admitted(d, [job(500, size=60), job(500, size=40)])
    assert d.queued_bytes == 100
    refusal = d.admit(job(500, size=1), 0.0)
    assert refusal is not None
    assert refusal.full
    admitted(d, [job(500, size=0)])
    assigned(d, 0.0)
    admitted(d, [job(500, size=60)])


@pytest.mark.parametrize("budget", [None, 1, 500])
@pytest.mark.parametrize("reject", [True, False])
def test_a_refusal_for_its_size_alone_says_when_to_retry(budget: float | None, reject: bool) -> None:
    refusal = dispatcher(max_bytes=100).admit(job(budget, size=101, reject=reject), 0.0)
    assert refusal is not None
    assert refusal.full
    assert 0 < refusal.retry_after_ms < math.inf


def test_cancel_frees_the_place_and_only_once() -> None:
    d = dispatcher()
    first, second, third = admitted(d, [job(500), job(500), job(500)])
    assert d.cancel(second)
    assert not d.cancel(second)
    assert (len(d), d.queued_bytes) == (2, 20)
    running = assigned(d, 0.0)
    assert running.job is first
    assert not d.cancel(first)  # it runs to its end
    assert d.running == 1
    finished(d, running, 20.0)
    assert not d.cancel(first)
    assert assigned(d, 20.0).job is third
    assert not d.cancel(job(500))


def test_a_late_request_can_be_cancelled_where_it_was_put() -> None:
    d = dispatcher()
    late, fine = admitted(d, [job(5), job(100)])
    assert assigned(d, 20.0).job is fine
    assert d.cancel(late)
    assert (len(d), d.queued_bytes) == (0, 0)
    assert d.next(20.0) is None


def test_a_failed_run_teaches_nothing_and_frees_the_worker() -> None:
    d = dispatcher()
    admitted(d, [job(500)])
    taken = assigned(d, 0.0)
    before = d.estimates.works_and_bounds_ms(EXPECTED)
    d.finish(taken, 400.0, None)
    assert d.running == 0
    assert d.estimates.works_and_bounds_ms(EXPECTED) == before


_OPERATION = st.tuples(
    st.sampled_from(["admit", "admit", "next", "finish", "cancel"]),
    st.integers(0, 1000),
    st.none() | st.floats(0.5, 300),
    st.booleans(),
    st.none() | st.integers(0, 3),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(_OPERATION, max_size=120), st.integers(1, 6), st.integers(1, 2000))
def test_limits_hold_exactly_and_the_counters_are_those_of_the_queue(
    operations: list[tuple[str, int, float | None, bool, int | None]], max_length: int, max_bytes: int
) -> None:
    d = dispatcher(2, max_length, max_bytes)
    waiting: list[Job] = []
    running: list[Assignment] = []
    now = 0.0
    for operation, number, budget, reject, pinned in operations:
        now += number / 50
        if operation == "admit":
            new = job(budget, now, size=number, reject=reject, pinned=pinned)
            room = len(waiting) < max_length and d.queued_bytes + number <= max_bytes
            refusal = d.admit(new, now)
            if refusal is None:
                assert room
                waiting.append(new)
            else:
                assert refusal.full == (not room)
                assert refusal.full or reject
                assert 0 < refusal.retry_after_ms < math.inf
        elif operation == "next" and len(running) < d.workers:
            taken = d.next(now)
            if taken is None:
                assert not waiting
            elif isinstance(taken, Job):
                assert taken.reject_late
                assert taken.deadline is not None
                assert taken.deadline <= now
                waiting.remove(taken)
            else:
                waiting.remove(taken.job)
                running.append(taken)
        elif operation == "finish" and running:
            finished(d, running.pop(number % len(running)), now + 0.1)
        elif operation == "cancel" and waiting:
            gone = waiting.pop(number % len(waiting))
            assert d.cancel(gone)
            assert not d.cancel(gone)
        assert len(d) == len(waiting) <= max_length
        assert d.queued_bytes == sum(j.size_bytes for j in waiting) <= max_bytes
        assert d.running == len(running)


def test_an_idle_device_refuses_nothing_that_is_feasible() -> None:
    for budget in np.arange(3.3, 30, 0.1).tolist():
        assert dispatcher().admit(job(budget, reject=True), 0.0) is None


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_while_a_worker_is_idle_nothing_feasible_is_refused(workers: int) -> None:
    # Also before the workers have woken up and taken what came a moment ago.
    tight = 1.3 * FASTEST_MS + ANSWER_MS * 1.3
    for taken in range(workers):
        for waiting in range(workers - taken):
            d = dispatcher(workers)
            admitted(d, [job(None) for _ in range(taken)])
            for _ in range(taken):
                assigned(d, 0.0)
            admitted(d, [job(tight, reject=True) for _ in range(waiting)])
            assert d.admit(job(tight, reject=True), 0.0) is None


def test_what_the_queue_would_make_late_is_refused_and_told_when() -> None:
    d = dispatcher()
    admitted(d, [job(None)])
    assigned(d, 0.0)  # 17 ms
    refusal = d.admit(job(15, reject=True), 0.0)
    assert refusal is not None
    assert not refusal.full
    assert 0 < refusal.retry_after_ms < 17
    # Later it would be taken, as it was told.
    later = refusal.retry_after_ms + 0.01
    assert d.admit(job(15, later, reject=True), later) is None


def test_what_would_make_another_late_is_refused() -> None:
    d = dispatcher()
    admitted(d, [job(None)])
    assigned(d, 0.0)  # 17 ms
    # Two fit behind it, and at 1.25 times the median with the answer these end by 22.4 ms.
    admitted(d, [job(23, reject=True), job(23, reject=True)])
    # In time for itself, as it would go first; not for the second of those.
    assert d.admit(job(22.9, reject=True), 0.0) is not None
    assert d.admit(job(60, reject=True), 0.0) is None


def test_best_effort_is_refused_only_by_the_limits() -> None:
    d = dispatcher(max_length=50)
    admitted(d, [job(3) for _ in range(50)])
    refusal = d.admit(job(3), 0.0)
    assert refusal is not None
    assert refusal.full


class Run:
    """All of one random workload; what became of each job, by its number."""

    def __init__(self, workers: int, max_length: int) -> None:
        self.d = dispatcher(workers, max_length)
        self.admitted: list[int] = []
        self.refused: list[Refusal] = []
        self.on_time: list[int] = []
        self.late: list[int] = []
        self.expired: list[int] = []
        self.wrong_pins = 0
        self._ends: list[tuple[float, int, Assignment]] = []
        self._serial = 0

    def arrive(self, new: Job, now: float) -> None:
        self.until(now)
        refusal = self.d.admit(new, now)
        if refusal is None:
            self.admitted.append(new.payload)
        else:
            assert refusal.full or new.reject_late
            self.refused.append(refusal)
        self._fill(now)

    def until(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            end, _, done = self._ends.pop(0)
            finished(self.d, done, end)
            deadline = done.job.deadline
            in_time = deadline is None or end + ANSWER_MS <= deadline
            (self.on_time if in_time else self.late).append(done.job.payload)
            self._fill(end)

    def _fill(self, now: float) -> None:
        while self.d.running < self.d.workers:
            taken = self.d.next(now)
            if taken is None:
                assert len(self.d) == 0
                return
            if isinstance(taken, Job):
                assert taken.reject_late
                assert taken.deadline is not None
                assert taken.deadline <= now
                self.expired.append(taken.payload)
                continue
            self.wrong_pins += taken.job.pinned not in (None, taken.index)
            self._serial += 1
            # 0.8 to 1.3 of what is expected, the same for the same place in the sequence
            factor = 0.8 + 0.5 * (self._serial * 0.618 % 1)
            end = now + factor * taken.job.expected[taken.index].service_ms
            self._ends.append((end, self._serial, taken))
            self._ends.sort(key=lambda e: e[:2])


_REQUEST = st.tuples(
    st.floats(0, 12),  # since the one before
    st.none() | st.sampled_from([1.0, 5.0, 15.0, 30.0, 60.0, 250.0]),
    st.none() | st.none() | st.none() | st.integers(0, 3),
    st.booleans(),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(_REQUEST, max_size=150), st.integers(1, 3), st.integers(1, 30))
def test_every_request_has_one_fate(
    requests: Sequence[tuple[float, float | None, int | None, bool]], workers: int, max_length: int
) -> None:
    run, now = Run(workers, max_length), 0.0
    best_effort = set()
    for i, (gap, budget, pinned, reject) in enumerate(requests):
        now += gap
        run.arrive(job(budget, now, pinned=pinned, reject=reject, payload=i), now)
        if not reject:
            best_effort.add(i)
    run.until(math.inf)
    fates = Counter(run.on_time + run.late + run.expired)
    assert fates == Counter(run.admitted)
    assert len(run.admitted) + len(run.refused) == len(requests)
    assert not best_effort & set(run.expired)
    assert all(0 < r.retry_after_ms < math.inf for r in run.refused)
    assert run.wrong_pins == 0
    assert (len(run.d), run.d.queued_bytes, run.d.running) == (0, 0, 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1 << 30), st.floats(0.3, 4))
def test_long_mixed_overload(seed: int, load: float) -> None:
    rng = np.random.default_rng(seed)
    run, now = Run(2, 64), 0.0
    budgets = [None, 5.0, 15.0, 30.0, 120.0]
    for i in range(400):
        now += float(rng.exponential(17 / 2 / load))
        budget = budgets[rng.integers(len(budgets))]
        run.arrive(job(budget, now, reject=bool(rng.random() < 0.5), payload=i), now)
    run.until(math.inf)
    assert Counter(run.on_time + run.late + run.expired) == Counter(run.admitted)
    assert all(0 < r.retry_after_ms < math.inf for r in run.refused)


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
    admitted(d, [parallel_job(15)])
    taken = assigned(d, 0.0)
    assert (taken.index, taken.threads, taken.decision) == (1, 2, "fits")
    # The other worker is kept free for its threads, and whoever comes waits for it.
    admitted(d, [parallel_job(15, 1.0)], 1.0)
    assert d.next(1.0) is None
    late = d.admit(parallel_job(12, 1.0, reject=True), 1.0)
    assert late is not None
    assert not late.full
    finished(d, taken, 9.0)
    assert assigned(d, 9.0).index == 2


def test_one_thread_serves_where_it_is_enough_or_another_request_is_there() -> None:
    d = parallel_dispatcher()
    admitted(d, [parallel_job(50)])
    relaxed = assigned(d, 0.0)
    assert (relaxed.index, relaxed.threads) == (0, 1)
    admitted(d, [parallel_job(15)])
    assert assigned(d, 0.0).threads == 1  # one worker is at something
    d = parallel_dispatcher()
    admitted(d, [parallel_job(15), parallel_job(15)])
    assert [assigned(d, 0.0).threads for _ in range(2)] == [1, 1]


def test_a_failed_run_of_all_threads_frees_the_workers() -> None:
    d = parallel_dispatcher()
    admitted(d, [parallel_job(15), parallel_job(None)])
    d.cancel(d._queue[1][2])
    taken = assigned(d, 0.0)
    assert taken.threads == 2
    d.finish(taken, 3.0, None)
    admitted(d, [parallel_job(15, 3.0)], 3.0)
    assert assigned(d, 3.0).threads == 2
