"""The bound is one: no policy beats it, and by hand it is what it must be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import simulator
from bench.clairvoyant import upper_bound
from service.latency import ANSWER_MS

FAMILY = simulator.Family(("a", "b", "c"), (0.7, 0.6, 0.4), (10.0, 4.0, 1.0))


def bound(
    arrivals: list[float], budgets: list[float], works: list[float], top1: list[float], *, loaded: float = 1.0
) -> float:
    """`loaded` is how much more work it is when all workers are busy."""
    each = np.tile(np.array(works), (len(arrivals), 1))
    when, how_long = np.array(arrivals), np.array(budgets)
    return upper_bound(when, how_long, each, loaded * each, np.array(top1), workers=1, slot_ms=1.0)


def test_by_hand() -> None:
    assert bound([0], [50], [10, 4], [0.7, 0.6]) == pytest.approx(0.7)
    assert bound([0], [5], [10, 4], [0.7, 0.6]) == pytest.approx(0.6)  # the large one does not fit
    assert bound([0], [3], [10, 4], [0.7, 0.6]) == pytest.approx(0.0)
    # Two at once with 11 slots of 1 ms (the widened window): 8 ms for the small one each, 3 ms more for
    # half of the step from the small to the large one.
    assert bound([0, 0], [10, 10], [10, 4], [0.7, 0.6]) == pytest.approx(0.6 + 0.1 * 0.5 / 2)
    # The same when each takes twice as much of a busy worker: 11 ms of the 16 for two small ones.
    assert bound([0, 0], [10, 10], [10, 4], [0.7, 0.6], loaded=2) == pytest.approx(0.6 * 11 / 8 / 2)
    # Far apart they do not meet.
    assert bound([0, 500], [50, 50], [10, 4], [0.7, 0.6]) == pytest.approx(0.7)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 4.0), st.integers(0, 10_000), st.integers(1, 3))
def test_no_policy_beats_it(share: float, seed: int, workers: int) -> None:
    rate = share * simulator.capacity_per_s(FAMILY, 0, workers)
    load = simulator.workload(simulator.poisson(rate, 120, seed), seed)
    works = (load.decode_ms[:, None] + np.array(FAMILY.inference_ms)) * load.noise[:, None]
    top1 = np.array(FAMILY.top1)
    best = upper_bound(load.arrivals, load.budgets - ANSWER_MS, works, works, top1, workers=workers)
    ours = simulator.simulate(FAMILY, load, workers=workers).goodput_accuracy
    static = [
        simulator.simulate(FAMILY.only(i), load, workers=workers).goodput_accuracy
        for i in range(len(FAMILY.keys))
    ]
    assert max([ours, *static]) <= best + 1e-6
