"""The dispatcher on cores that the event loop and the callers use too."""

import pytest

from bench.contended import FAMILY, compare, contended_workload, simulate_contended
from bench.simulator import Floats, capacity_per_s, poisson, simulate, square_wave

SECONDS = 10
FULL = capacity_per_s(FAMILY, 0)


@pytest.mark.parametrize(
    "arrivals",
    [
        pytest.param(poisson(FULL, round(FULL * SECONDS), 3), id="as much as the largest keeps up with"),
        pytest.param(poisson(3 * FULL, round(3 * FULL * SECONDS), 3), id="three times that"),
        pytest.param(square_wave(0.3 * FULL, 2 * FULL, SECONDS, 3), id="a square wave"),
    ],
)
def test_it_keeps_up_with_the_best_static_variant_in_hindsight(arrivals: Floats) -> None:
    ours, best = compare(arrivals, 3)
    assert ours.goodput_accuracy >= 0.98 * best.goodput_accuracy
    assert ours.attainment_of_admitted >= 0.97


def test_every_request_is_answered_once() -> None:
    result = simulate_contended(FAMILY, contended_workload(poisson(3 * FULL, 800, 0), 0))
    assert result.on_time + result.late + result.refused + result.expired == result.requests == 800
    assert len(result.lateness_ms) == result.on_time + result.late
    assert result.refused > 0


def test_the_same_seed_is_the_same_run() -> None:
    first, second = (
        simulate_contended(FAMILY, contended_workload(poisson(FULL, 300, 0), 0)) for _ in range(2)
    )
    assert first == second


def test_cores_of_ones_own_would_do_more() -> None:
    load = contended_workload(poisson(3 * FULL, 3000, 0), 0)
    assert simulate_contended(FAMILY, load).accuracy < 0.9 * simulate(FAMILY, load).accuracy
