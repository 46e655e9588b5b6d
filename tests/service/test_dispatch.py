"""The dispatcher, driven step by step: order, limits, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.dispatch import LATE_PATIENCE_MS, UNBOUNDED_PATIENCE_MS
from service.jobs import Assignment, Job, Refusal
from service.latency import ANSWER_MS, Expected
from tests.service.dispatching import (
    EXPECTED,
    FASTEST_MS,
    TOP1,
    admitted,
    assigned,
    dispatcher,
    finished,
    in_order,
    job,
)


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


def test_one_that_insists_and_hardly_can_be_on_time_steps_aside_for_those_who_can() -> None:
    d = dispatcher()
    insists, other = admitted(d, [job(100, reject=True), job(130, reject=True)])
    (before,) = admitted(d, [job(90)])
    assert assigned(d, 0.0).job is before
    finished(d, Assignment(before, 3, "fits", 97.0, 2.0, 2.5), 99.0)
    assert assigned(d, 99.0).job is other  # a millisecond is left, and the fastest takes two
    assert (len(d), d.queued_bytes) == (1, insists.size_bytes)
    assert d.next(100.0) is insists
    assert (len(d), d.queued_bytes) == (0, 0)


@pytest.mark.parametrize("others", [0, 1])
def test_it_runs_where_nobody_else_hurries(others: int) -> None:
    d = dispatcher()
    (before,) = admitted(d, [job(90)])
    insists = job(100, reject=True)
    admitted(d, [insists, *(job(None) for _ in range(others))])
    assert assigned(d, 0.0).job is before
    finished(d, Assignment(before, 3, "fits", 97.0, 2.0, 2.5), 99.0)
    assert assigned(d, 99.0).job is insists


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


def test_what_one_loses_alone_makes_nobody_step_aside() -> None:
    """A busy machine lets each wait before a worker takes it, though nobody else is there."""
    d = dispatcher()
    now = 0.0
    for _ in range(20):
        admitted(d, [job(60, now)], now)
        taken = assigned(d, now + 52)
        assert taken.decision == "degraded"
        now += 52 + taken.expected.service_ms
        finished(d, taken, now)
    admitted(d, [job(1000, now)], now)
    assert assigned(d, now).index == 0


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
    assert refusal.reason == "full"
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
    assert refusal.reason == "full"
    admitted(d, [job(500, size=0)])
    assigned(d, 0.0)
    admitted(d, [job(500, size=60)])


@pytest.mark.parametrize("budget", [None, 1, 500])
@pytest.mark.parametrize("reject", [True, False])
def test_a_refusal_for_its_size_alone_says_when_to_retry(budget: float | None, reject: bool) -> None:
    refusal = dispatcher(max_bytes=100).admit(job(budget, size=101, reject=reject), 0.0)
    assert refusal is not None
    assert refusal.reason == "full"
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
    before = d.estimates.costs(EXPECTED)
    d.finish(taken, 400.0, None)
    assert d.running == 0
    assert d.estimates.costs(EXPECTED) == before


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


def test_an_idle_worker_tries_what_the_latest_runs_say_to_be_too_slow_only_when_they_are_old() -> None:
    d, now = dispatcher(), 0.0
    for _ in range(30):
        admitted(d, [job(None, now)], now)
        taken = assigned(d, now)
        now += 3 * taken.expected.service_ms
        d.finish(taken, now, 3 * taken.expected.inference_ms)
        d.answered(ANSWER_MS)
    budget = 2 * FASTEST_MS + ANSWER_MS  # enough by the profile
    assert d.idle_fastest_ms(job(budget, now), now) == pytest.approx(3 * FASTEST_MS + ANSWER_MS)
    assert d.admit(job(budget, now, reject=True), now) is not None
    later = now + 1001
    assert d.idle_fastest_ms(job(budget, later), later) == FASTEST_MS + ANSWER_MS
    assert d.admit(job(budget, later, reject=True), later) is None


def test_what_the_queue_would_make_late_is_refused_and_told_when() -> None:
    d = dispatcher()
    admitted(d, [job(None)])
    assigned(d, 0.0)  # 17 ms
    refusal = d.admit(job(15, reject=True), 0.0)
    assert refusal is not None
    assert refusal.reason == "late"
    assert 0 < refusal.retry_after_ms < 17
    # Later it would be taken, as it was told.
    later = refusal.retry_after_ms + 0.01
    assert d.admit(job(15, later, reject=True), later) is None


def test_what_would_make_another_late_is_refused() -> None:
    d = dispatcher()
    admitted(d, [job(None)])
    assigned(d, 0.0)  # 17 ms
    # Two fit behind it: all at 1.25 times the median, with the answer, these end by 26.4 ms.
    admitted(d, [job(27, reject=True), job(27, reject=True)])
    # In time for itself, as it would go first; not for the second of those.
    assert d.admit(job(26.9, reject=True), 0.0) is not None
    assert d.admit(job(60, reject=True), 0.0) is None


@pytest.mark.parametrize("pinned", [None, 3])
@pytest.mark.parametrize("losses", [0, 50])
def test_what_only_the_fastest_could_answer_is_refused_where_its_time_is_worth_more(
    losses: int, pinned: int | None
) -> None:
    """The one before the fastest is right half as often again, for little more time."""
    d = dispatcher()
    admitted(d, [job(None)])
    assigned(d, 0.0)
    for _ in range(losses):
        d._contention._price.lost(0.6, 0.6 / 5.0, 0.0)
    expected = [*EXPECTED[:3], Expected("v3", 1.0, 3.0)]
    by_next, by_fastest = (d.estimates.bound_ms(each) for each in expected[2:])
    tight = job(d._running.free_ms(0.0)[0] + (by_fastest + by_next) / 2, reject=True, pinned=pinned)
    tight.expected = expected
    refusal = d.admit(tight, 0.0)
    assert (refusal is not None) == (losses > 0 and pinned is None)


def test_no_loss_makes_time_so_dear_that_less_than_the_most_efficient_runs() -> None:
    """What is lost may be pictures that take next to nothing. Each costs some time besides, and with that the
    most efficient one is right more often for its time than the fastest."""
    d = dispatcher()
    small = job(1000)
    small.expected = [
        Expected("v0", 0.1, 4.0),
        Expected("v1", 0.1, 2.0),
        Expected("v2", 0.1, 1.0),
        EXPECTED[3],
    ]
    d._contention.rank(small)
    for _ in range(50):
        d._contention.lost(small, 0.6, 0.0)
    large = job(1000)
    large.expected = [*EXPECTED[:3], Expected("v3", 1.0, 3.0)]
    admitted(d, [large, job(None)])
    assert (large.frontier[0], large.fastest) == (2, 3)
    assert assigned(d, 0.0).index == 2


def test_what_a_refused_request_leaves_of_its_share_is_for_others() -> None:
    d = dispatcher(max_length=1)
    admitted(d, [job(5000)])
    for i in range(1, 100):
        assert d.admit(job(5000, 8.0 * i), 8.0 * i) is not None
    assert d._contention._shares.limit_ms(8.0) == pytest.approx(12.0, rel=0.02)


def test_best_effort_is_refused_only_by_the_limits() -> None:
    d = dispatcher(max_length=50)
    admitted(d, [job(3) for _ in range(50)])
    refusal = d.admit(job(3), 0.0)
    assert refusal is not None
    assert refusal.reason == "full"
