"""What the scheduling policy promises, on the real dispatcher under a virtual clock."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import simulator
from service.dispatch import Dispatcher
from service.jobs import Assignment, Job, Refusal
from service.latency import ANSWER_MS, Expected, LatencyEstimates

FAMILY = simulator.Family(("a", "b", "c", "d"), (0.709, 0.672, 0.591, 0.415), (10.0, 5.0, 2.2, 0.6))
CAPACITY = simulator.capacity_per_s(FAMILY, 0)


def dispatcher(workers: int = 2, max_length: int = 64, max_bytes: int = 1 << 20) -> Dispatcher:
    estimates = LatencyEstimates(FAMILY.profile())
    return Dispatcher(estimates, workers, max_length=max_length, max_bytes=max_bytes)


def job(
    arrival: float, budget: float | None, *, reject: bool = False, size: int = 1, pinned: int | None = None
) -> Job:
    expected = [Expected(k, 2.0, ms) for k, ms in zip(FAMILY.keys, FAMILY.inference_ms, strict=True)]
    deadline = None if budget is None else arrival + budget
    return Job(expected, FAMILY.top1, arrival, deadline, size, pinned, reject)


def run_out(d: Dispatcher, now: float) -> list[Job]:
    """Serves whatever waits, one worker after the other; the order of service."""
    order = []
    while (taken := d.next(now)) is not None:
        if isinstance(taken, Job):
            order.append(taken)
            continue
        order.append(taken.job)
        now += taken.median_ms
        d.finish(taken, now, taken.job.expected[taken.index].inference_ms)
    return order


def test_deadlines_order_execution_and_no_budget_comes_after() -> None:
    d = dispatcher()
    jobs = [job(0, budget) for budget in (200, None, 60, 120, 30)]
    for j in jobs:
        assert d.admit(j, 0) is None
    assert [jobs.index(j) for j in run_out(d, 0)] == [4, 2, 3, 0, 1]


def test_a_request_without_budget_is_not_starved() -> None:
    d = dispatcher()
    patient = job(0, None)
    d.admit(patient, 0)
    later = job(11_000, 60)
    d.admit(later, 11_000)
    assert run_out(d, 11_000)[0] is patient


def test_what_is_late_already_goes_behind_what_can_be_on_time() -> None:
    d = dispatcher()
    late, fine = job(0, 15), job(20, 60)
    d.admit(late, 0)
    d.admit(fine, 20)
    assert run_out(d, 20) == [fine, late]


def test_an_idle_worker_refuses_nothing_that_is_feasible() -> None:
    for budget in (6, 15, 250):
        assert dispatcher().admit(job(0, budget, reject=True), 0) is None


def test_a_refusal_says_when_there_will_be_room() -> None:
    d = dispatcher()
    refusals = [d.admit(job(0, 15, reject=True), 0) for _ in range(30)]
    assert refusals[0] is None
    for refusal in refusals[10:]:
        assert isinstance(refusal, Refusal)
        assert 0 < refusal.retry_after_ms < 1000


def test_a_pinned_variant_runs() -> None:
    d = dispatcher()
    d.admit(job(0, 5, pinned=1), 0)
    taken = d.next(0)
    assert isinstance(taken, Assignment)
    assert (taken.index, taken.decision) == (1, "pinned")


_OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["admit", "next", "finish", "cancel"]), st.integers(1, 400), st.booleans()),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(_OPERATIONS)
def test_limits_hold_and_nothing_is_lost_or_answered_twice(operations: list[tuple[str, int, bool]]) -> None:
    d = dispatcher(max_length=5, max_bytes=1000)
    waiting: list[Job] = []
    running: list[Assignment] = []
    seen: set[Job] = set()
    for now, (operation, number, reject) in enumerate(operations):
        if operation == "admit":
            new = job(float(now), None if number % 5 == 0 else float(number), reject=reject, size=number)
            refusal = d.admit(new, float(now))
            if refusal is None:
                waiting.append(new)
            elif refusal.reason == "full":
                assert len(waiting) == 5 or sum(j.size_bytes for j in waiting) + number > 1000
        elif operation == "next" and len(running) < d.workers:
            taken = d.next(float(now))
            if taken is not None:
                done = taken if isinstance(taken, Job) else taken.job
                assert done not in seen
                seen.add(done)
                waiting.remove(done)
                if isinstance(taken, Assignment):
                    running.append(taken)
                else:
                    assert done.reject_late
                    assert done.deadline is not None
                    assert done.deadline <= now
            else:
                assert not waiting
        elif operation == "finish" and running:
            d.finish(running.pop(), float(now), 1.0)
        elif operation == "cancel" and waiting:
            assert d.cancel(waiting.pop(number % len(waiting)))
        assert len(d) == len(waiting) <= 5
        assert d.queued_bytes == sum(j.size_bytes for j in waiting) <= 1000
        assert d.running == len(running)


@pytest.mark.parametrize("reject", [True, False])
def test_every_request_is_accounted_for(reject: bool) -> None:
    arrivals = simulator.poisson(1.5 * CAPACITY, 3000, seed=3)
    result = simulator.simulate(FAMILY, simulator.workload(arrivals, 3), reject=reject)
    assert result.on_time + result.late + result.refused + result.expired == result.requests == 3000
    if not reject:
        assert result.expired == 0
        assert result.refused == 0 or result.requests - result.refused == len(result.lateness_ms)


def test_the_same_seed_gives_the_same_result() -> None:
    arrivals = simulator.poisson(CAPACITY, 2000, seed=5)
    one, other = (simulator.simulate(FAMILY, simulator.workload(arrivals, 5)) for _ in range(2))
    assert one == other


def test_accuracy_does_not_rise_with_load() -> None:
    accuracies = []
    for share in (0.3, 0.7, 1, 1.5, 2, 3, 5):
        arrivals = simulator.poisson(share * CAPACITY, 4000, seed=7)
        accuracies.append(simulator.simulate(FAMILY, simulator.workload(arrivals, 7)).goodput_accuracy)
    for lighter, heavier in itertools.pairwise(accuracies):
        assert heavier <= lighter + 0.003


@pytest.mark.parametrize(
    ("name", "arrivals", "least"),
    [
        ("0.7x", simulator.poisson(0.7 * CAPACITY, 3000, 11), 0.99),
        ("1x", simulator.poisson(CAPACITY, 3000, 11), 0.99),
        ("2x", simulator.poisson(2 * CAPACITY, 5000, 11), 0.99),
        ("wave", simulator.square_wave(0.3 * CAPACITY, 2 * CAPACITY, 16, 11), 0.99),
        ("ramp", simulator.ramp(3 * CAPACITY, 16, 11), 1.03),
    ],
)
def test_goodput_against_the_best_static_variant_in_hindsight(
    name: str, arrivals: simulator.Floats, least: float
) -> None:
    load = simulator.workload(arrivals, 11)
    ours = simulator.simulate(FAMILY, load)
    static = max(simulator.simulate(FAMILY.only(i), load).goodput_accuracy for i in range(4))
    assert ours.goodput_accuracy >= least * static, name
    assert ours.attainment_of_admitted >= 0.99


@settings(max_examples=40, deadline=None)
@given(st.floats(0.5, 3), st.integers(0, 1000))
def test_estimates_follow_a_change_of_speed_within_fifty_requests(speed: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    estimates = LatencyEstimates(FAMILY.profile())
    expected = Expected("a", 2.0, 10.0)

    def serve(factor: float, n: int) -> None:
        for noise in rng.normal(1, 0.03, n):
            service_ms = expected.service_ms * factor * noise
            estimates.observe(expected, service_ms, 10.0 * factor * noise)
            estimates.observe_answer(ANSWER_MS)

    for factor in (1.0, speed, 1.0):
        serve(factor, 50)
        assert estimates.work_ms(expected) == pytest.approx(12.0 * factor, rel=0.05)
        assert 12.0 * factor <= estimates.bound_ms(expected) - ANSWER_MS <= 12.0 * factor * 1.2
    # A variant that has not run borrows what the others show.
    serve(speed, 50)
    other = Expected("b", 2.0, 5.0)
    assert estimates.work_ms(other) == pytest.approx(7.0 * speed, rel=0.05)
