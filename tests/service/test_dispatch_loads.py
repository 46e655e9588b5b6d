"""Plans that are not in memory: what loading takes counts until they are, and teaches nothing."""

import math
from dataclasses import dataclass, replace

import pytest

from service.dispatch import Dispatcher
from service.jobs import Assignment, Job
from service.latency import ANSWER_MS
from tests.service.dispatching import EXPECTED, TOP1, admitted, assigned, dispatcher, job


@dataclass
class Loads:
    load_ms: float


@dataclass
class Flickers:
    """Drops out of memory and comes back between two readings."""

    readings: list[float]

    @property
    def load_ms(self) -> float:
        self.readings.append(self.readings.pop(0))
        return self.readings[-1]


def with_loads(*load_ms: float) -> Job:
    """Of the most accurate plans; the others are in memory."""
    expected = [
        replace(plan, needs=(Loads(ms),)) for plan, ms in zip(EXPECTED, load_ms, strict=False)
    ] + EXPECTED[len(load_ms) :]
    return Job(expected, TOP1, 0.0, None)


def budgeted(job: Job, budget_ms: float) -> Job:
    return replace(job, deadline=budget_ms)


def chosen(d: Dispatcher, job: Job) -> Assignment:
    admitted(d, [job])
    return assigned(d, 0.0)


def test_a_budget_that_loading_would_break_gets_what_is_in_memory() -> None:
    assert chosen(dispatcher(), budgeted(with_loads(100, 0), 60)).index == 1
    assert chosen(dispatcher(), budgeted(with_loads(100, 100), 60)).index == 2
    assert chosen(dispatcher(), budgeted(with_loads(100, 0), 60)).decision == "fits"


def test_a_budget_with_room_for_loading_and_none_at_all_get_the_most_accurate() -> None:
    assert chosen(dispatcher(), budgeted(with_loads(100), 200)).index == 0
    taken = chosen(dispatcher(), with_loads(100))
    assert (taken.index, taken.load_ms) == (0, 100)
    assert taken.median_ms == EXPECTED[0].service_ms + 100 + ANSWER_MS


def test_it_counts_no_more_once_it_is_in_memory() -> None:
    """Between the submission and the choice another request may have loaded it."""
    d = dispatcher()
    (waits,) = admitted(d, [budgeted(with_loads(100), 60)])
    (needed,) = waits.expected[0].needs
    assert isinstance(needed, Loads)
    needed.load_ms = 0
    assert assigned(d, 0.0).index == 0


def test_what_can_no_longer_be_loaded_is_passed_over() -> None:
    assert chosen(dispatcher(), with_loads(math.inf)).index == 1
    assert chosen(dispatcher(), budgeted(with_loads(math.inf), 1e6)).index == 1
    # Who pins it is told so by the worker that tries.
    assert chosen(dispatcher(), replace(with_loads(math.inf), pinned=0)).index == 0


def test_loading_teaches_nothing_about_running() -> None:
    d = dispatcher()
    before = d.estimates.bound_ms(EXPECTED[0])
    for _ in range(40):
        taken = chosen(d, with_loads(100))
        service_ms = taken.expected.service_ms
        d.finish(taken, 100 + service_ms, taken.expected.inference_ms, load_ms=100)
        d.answered(ANSWER_MS)
    assert d.estimates.slowdown == 1
    assert d.estimates.bound_ms(EXPECTED[0]) <= before


@pytest.mark.parametrize("other", [0.0, math.inf])
@pytest.mark.parametrize("offset", [0, 1])
def test_an_assignment_does_not_mix_what_loading_took_at_two_moments(other: float, offset: int) -> None:
    d = dispatcher()
    needs = (Flickers([100.0, other] if offset else [other, 100.0]),)
    job = replace(with_loads(), expected=[replace(EXPECTED[0], needs=needs), *EXPECTED[1:]], pinned=0)
    taken = chosen(d, job)
    assert taken.median_ms == taken.load_ms + d.estimates.median_ms(EXPECTED[0])
    assert taken.bound_ms == taken.load_ms + d.estimates.bound_ms(EXPECTED[0])
    assert taken.slowdown >= 1


def test_what_cannot_be_loaded_keeps_its_worker_until_it_has_failed() -> None:
    """Infinity less infinity is no number, and compares with none."""
    d = dispatcher()
    taken = chosen(d, replace(with_loads(math.inf), pinned=0))
    assert taken.slowdown == 1
    assert d._running.free_ms(0.0) == [math.inf]


def test_those_who_wait_count_by_what_is_in_memory_now() -> None:
    d, needed = dispatcher(), Loads(200)
    chosen(d, job(500))
    admitted(d, [replace(job(150), expected=[replace(plan, needs=(needed,)) for plan in EXPECTED])])
    assert d.admit(job(151, reject=True), 0.0) is not None
    needed.load_ms = 0
    assert d.admit(job(151, reject=True), 0.0) is None
