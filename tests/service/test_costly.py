"""Under load that lasts, a picture that would take the time of several others makes room for them."""

from dataclasses import replace

import numpy as np
import pytest

from bench import contended, simulator
from service.admission import Admission
from service.dispatch import Dispatcher
from service.jobs import Assignment, Job
from service.latency import Expected
from tests.service.dispatching import EXPECTED, dispatcher, finished, job

LARGE = [replace(e, decode_ms=40.0) for e in EXPECTED]
EVERY_MS = 2.5  # one comes; the most efficient variant takes 5


def large(now: float, budget: float | None = 120, *, pinned: int | None = None, reject: bool = True) -> Job:
    return replace(job(budget, now, pinned=pinned, reject=reject), expected=LARGE)


def crowded(for_ms: float, expected: list[Expected] = EXPECTED) -> tuple[Dispatcher, Assignment, float]:
    """A dispatcher after so much time in which pictures have come twice as fast as they can be answered, what
    it is at, and the time; others still wait."""
    d, now, free_at = dispatcher(1), 0.0, 0.0
    running = None
    while now < for_ms:
        d.admit(replace(job(60, now, reject=True), expected=expected), now)
        if running is not None and free_at <= now:
            finished(d, running, free_at)
            running = None
        while running is None and len(d):
            taken = d.next(now)
            if isinstance(taken, Job) or taken is None:
                continue
            running, free_at = taken, now + taken.expected.service_ms
        now += EVERY_MS
    assert len(d) > 0
    assert running is not None
    return d, running, now


def reason(d: Dispatcher, job: Job, now: float) -> str | None:
    refusal = d.admit(job, now)
    return None if refusal is None else refusal.reason


def test_it_is_refused_where_others_gain_more_by_its_time() -> None:
    d, _, now = crowded(1100)
    refusal = d.admit(large(now), now)
    assert refusal is not None
    assert refusal.reason == "costly"
    assert refusal.retry_after_ms > 0
    # Time is there: one that takes as much of it as most is taken.
    assert reason(d, job(120, now, reject=True), now) is None


def test_it_is_taken_once_what_waited_is_done() -> None:
    d, running, now = crowded(1100)
    refusal = d.admit(large(now), now)
    assert refusal is not None
    finished(d, running, now)
    while (taken := d.next(now)) is not None:
        if isinstance(taken, Assignment):
            now += taken.expected.service_ms
            finished(d, taken, now)
    assert reason(d, large(now), now) is None


@pytest.mark.parametrize(
    ("for_ms", "budget", "expected"),
    [
        (900, 120, None),
        (1100, 120, "costly"),  # who knows whether a burst of less than a second goes on
        (1500, 800, None),
        (1700, 800, "costly"),  # or whether it is over before the time of one with 800 ms is
    ],
)
def test_it_is_taken_in_a_burst_that_may_be_over_before_its_time_is(
    for_ms: float, budget: float, expected: str | None
) -> None:
    d, _, now = crowded(for_ms)
    assert reason(d, large(now, budget), now) == expected


def test_who_pins_a_variant_or_wants_a_late_answer_is_not_weighed() -> None:
    d, _, now = crowded(1100)
    assert reason(d, large(now, pinned=2), now) is None
    d, _, now = crowded(1100)
    assert reason(d, large(now, reject=False), now) is None
    assert reason(d, large(now, None), now) is None


def test_among_equals_none_is_refused_for_what_it_takes() -> None:
    d, _, now = crowded(2000, LARGE)
    assert reason(d, large(now, 250), now) in (None, "late")


def test_more_is_gained_by_it_than_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most photos are decoded in 1 ms, some in 12; three come while there is time for two."""
    family = replace(contended.FAMILY, inference_ms=(5.7, 2.6, 0.95, 0.35))
    rate = 1.5 * 2000 / (family.inference_ms[2] + 2.1)
    load = simulator.workload(simulator.poisson(rate, 5000, 0), 0)
    rng = np.random.default_rng(0)
    load = replace(load, decode_ms=np.where(rng.random(5000) < 0.1, 12.0, 1.0))
    ours = simulator.simulate(family, load)
    monkeypatch.setattr(Admission, "_costly", lambda *_: False)
    without = simulator.simulate(family, load)
    assert ours.goodput_accuracy > 1.05 * without.goodput_accuracy
    assert ours.attainment_of_admitted > 0.99
