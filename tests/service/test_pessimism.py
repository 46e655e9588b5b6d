"""Pessimism about what waits, and the dispatcher that learns it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from service.dispatch import Dispatcher
from service.jobs import Assignment
from service.pessimism import BROKEN, Pessimism
from tests.service.dispatching import assigned, dispatcher, job


@pytest.mark.parametrize("at_least", [0.02, 0.06, 0.3])  # of all, were nothing reckoned longer than expected
def test_it_settles_where_one_in_a_hundred_promises_breaks(at_least: float) -> None:
    rng, pessimism, broken = np.random.default_rng(0), Pessimism(), []
    for _ in range(40_000):
        chance = at_least * math.exp(-12 * (pessimism.factor - 1.1))
        broken.append(bool(rng.random() < chance))
        pessimism.observe(kept=not broken[-1])
    assert np.mean(broken[10_000:]) == pytest.approx(BROKEN, rel=0.15)


def test_it_stays_within_its_limits_and_returns_from_both() -> None:
    pessimism = Pessimism()
    calm = pessimism.factor
    pessimism.observe(kept=True)
    assert pessimism.factor == calm
    for _ in range(1000):
        pessimism.observe(kept=False)
    most = pessimism.factor
    assert most == 1.6
    pessimism.observe(kept=True)
    assert calm < pessimism.factor < most
    for _ in range(1000):
        pessimism.observe(kept=True)
    assert pessimism.factor == calm


def test_what_was_broken_by_waiting_is_promised_to_fewer() -> None:
    d = dispatcher()
    before = _taken(d, now=0.0)
    assert 4 < before < 20
    for at in range(1, 4):
        # The worker is at something that teaches nothing, until the time of all that wait is over.
        _break(d, now=1000.0 * at)
    after = _taken(d, now=1_000_000.0)
    assert 4 < after < before


@pytest.mark.parametrize("reject", [True, False])
def test_only_what_was_promised_while_others_ran_counts(reject: bool) -> None:
    d = dispatcher(workers=2)
    for at in range(100):
        now = 1000.0 * at
        d.admit(job(40.0, now, reject=reject), now)  # at once: the other worker is idle too
        if not reject:
            d.admit(job(40.0, now), now)
            d.admit(job(40.0, now), now)
        while (taken := d.next(now + 38.5)) is not None:
            assert isinstance(taken, Assignment)
            d.finish(taken, now + 40.0, None)
    assert d.pessimism == Pessimism().factor


def test_what_was_broken_to_those_in_time_by_a_hair_keeps_out_none_that_has_time() -> None:
    d = dispatcher()
    top1 = (0.7, 0.65, 0.6, 0.3)  # the third is the most efficient: a tight one has time for the fourth only

    def refused(budget: float, now: float) -> bool:
        """Behind one that runs and one that waits."""
        d.admit(job(None, now), now)
        running = assigned(d, now)
        before, last = (replace(job(ms, now, reject=True), top1=top1) for ms in (25.2, budget))
        assert d.admit(before, now) is None
        refusal = d.admit(last, now)
        assert d.cancel(before)
        d.cancel(last)
        d.finish(running, now + 1.0, None)
        return refusal is not None

    tight, roomy = 30.5, 36.0
    assert not refused(tight, 0.0)
    assert not refused(roomy, 100.0)
    for at in range(1, 6):
        now = 1000.0 * at
        d.admit(job(None, now), now)
        running = assigned(d, now)
        waits = replace(job(25.2, now, reject=True), top1=top1)
        assert d.admit(waits, now) is None
        assert waits.tight
        d.finish(running, now + 100.0, None)
        assert d.next(now + 100.0) is waits  # given back
    assert d.pessimism == Pessimism().factor
    assert refused(tight, 1e6)
    assert not refused(roomy, 2e6)


def _taken(d: Dispatcher, now: float) -> int:
    """How many of twenty that come at once are admitted behind a run; none of them is left behind."""
    assert d.admit(job(None, now), now) is None
    running = assigned(d, now)
    jobs = [job(60.0, now, reject=True) for _ in range(20)]
    found = [each for each in jobs if d.admit(each, now) is None]
    assert all(d.cancel(each) for each in found)
    d.finish(running, now + 1.0, None)
    return len(found)


def _break(d: Dispatcher, now: float) -> None:
    assert d.admit(job(None, now), now) is None
    running = assigned(d, now)
    waiting = [each for _ in range(4) if d.admit(each := job(60.0, now, reject=True), now) is None]
    d.finish(running, now + 100.0, None)
    assert [d.next(now + 100.0) for _ in waiting] == waiting  # given back
    assert len(waiting) > 1
