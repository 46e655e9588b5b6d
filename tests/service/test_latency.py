"""Estimates: from the profile at first, then from what really happens."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.imaging import ImageHeader
from model_store.manifest import Preprocessing
from model_store.profile import DecodeCost, DeviceProfile, Quantiles
from service.latency import (
    ANSWER_MS,
    CONFIDENCE,
    LATE_AT_BOUND,
    Expected,
    LatencyEstimates,
    Loadable,
    QuantileWindow,
    fastest,
)


class Way(NamedTuple):
    key: str
    resolution: int
    threads: int = 1
    needs: tuple[Loadable, ...] = ()
    pairs: bool = False


MEDIANS = {"large": 20.0, "middle": 8.0, "small": 2.0}
DECODE_MS = 2.0


def estimates() -> LatencyEstimates:
    inference = {key: Quantiles(p50=ms, p95=1.1 * ms) for key, ms in MEDIANS.items()}
    decode = {
        "JPEG/1": DecodeCost(base_ms=0.5, per_megapixel_ms=10, per_megabyte_ms=20),
        "JPEG/8": DecodeCost(base_ms=1.0, per_megapixel_ms=2, per_megabyte_ms=5),
    }
    return LatencyEstimates(DeviceProfile(device="test", inference=inference, decode=decode))


def expected(key: str) -> Expected:
    return Expected(key, DECODE_MS, MEDIANS[key])


class Device:
    """Runs that take what the profile says times `slowdown`, with 5 % of noise."""

    def __init__(self, learns: LatencyEstimates, seed: int = 0) -> None:
        self.learns = learns
        self.slowdown = 1.0
        self._rng = np.random.default_rng(seed)

    def ratio(self) -> float:
        return float(self.slowdown * np.exp(self._rng.normal(0, 0.05)))

    def serve(self, keys: Sequence[str]) -> None:
        for key in keys:
            run, ratio = expected(key), self.ratio()
            self.learns.observe(run, run.service_ms * ratio, run.inference_ms * ratio)
            self.learns.observe_answer(ANSWER_MS)

    def covered(self, key: str, n: int = 500) -> float:
        """The share of the next runs that the bound would cover."""
        run = expected(key)
        bound = self.learns.bound_ms(run)
        return float(np.mean([run.service_ms * self.ratio() + ANSWER_MS <= bound for _ in range(n)]))


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=60, max_size=120))
def test_quantiles_are_those_of_the_latest_48_values(values: list[float]) -> None:
    window = QuantileWindow()
    for count, value in enumerate(values, start=1):
        window.add(value)
        latest = values[max(0, count - 48) : count]
        assert window.count == len(latest)
        assert window.median == np.quantile(latest, 0.5, method="higher")
        above = sum(value > window.high for value in latest)
        if window.high in latest:
            assert above <= (1 - CONFIDENCE) * (len(latest) + 1)
        else:  # beyond it a run was stalled
            assert window.high == 4 * window.median < max(latest)
        assert window.bound >= window.high
        if len(latest) < 16:
            assert window.bound >= 1.25 * window.median


def test_the_high_value_of_a_full_window_is_its_second_largest() -> None:
    """96 % of what comes keeps the 47th of 48, 94 % the 46th."""
    window = QuantileWindow()
    for value in np.random.default_rng(0).permutation(np.arange(1.0, 49.0)):
        window.add(float(value))
    assert (window.median, window.high) == (25.0, 47.0)
    assert window.bound == pytest.approx(25 + 3.7 * (37 - 25))  # 26 to 48 are 37 in the mean


def tails(rng: np.random.Generator) -> dict[str, Callable[[int], np.ndarray]]:
    return {
        "exponential": lambda n: 1 + rng.exponential(0.2, n),
        "log-normal": lambda n: np.exp(rng.normal(0, 0.2, n)),
        "normal": lambda n: 1 + np.abs(rng.normal(0, 0.2, n)),
        "one in thirty twice as long": lambda n: (
            np.exp(rng.normal(0, 0.2, n)) * (1 + (rng.random(n) < 1 / 30))
        ),
    }


@pytest.mark.parametrize("tail", tails(np.random.default_rng()))
def test_few_values_go_beyond_the_bound(tail: str) -> None:
    """One in forty is what the planner counts on; what comes is not of the window."""
    draw = tails(np.random.default_rng(1))[tail]
    coming = draw(20_000)
    beyond = []
    for _ in range(300):
        window = QuantileWindow()
        for value in draw(48):
            window.add(float(value))
        beyond.append(np.mean(coming > window.bound))
    assert 0.2 * LATE_AT_BOUND < np.mean(beyond) < 1.5 * LATE_AT_BOUND


def test_the_bound_is_less_a_matter_of_luck_than_the_windows_own_quantile() -> None:
    rng = np.random.default_rng(1)
    bounds, quantiles = [], []
    for _ in range(400):
        window = QuantileWindow()
        for value in 1 + rng.exponential(0.2, 48):
            window.add(float(value))
        bounds.append(window.bound - 1)
        # The same by the window's own quantile, carried on as an exponential tail.
        quantiles.append(window.high + math.log10(2) * (window.high - window.median) - 1)
    assert np.std(bounds) / np.mean(bounds) < 0.8 * np.std(quantiles) / np.mean(quantiles)


def test_how_long_a_run_was_stalled_tells_nothing_of_the_next() -> None:
    """Two of 48 took fifty times as long: the machine did something else, and a bound of as much would keep
    the variant from ever showing that it is well."""
    window = QuantileWindow()
    for i in range(48):
        window.add(50.0 if i in (10, 30) else 1.0)
    assert 4 <= window.bound < 5


def test_a_slow_answer_does_not_widen_the_bounds_for_long() -> None:
    learns = estimates()
    device = Device(learns)
    device.serve(["small"] * 48)
    before = learns.bound_ms(expected("small"))
    learns.observe_answer(60.0)
    assert learns.bound_ms(expected("small")) > 50
    for _ in range(16):  # whatever variant they are of
        learns.observe_answer(ANSWER_MS)
    assert learns.bound_ms(expected("small")) == pytest.approx(before, rel=0.05)


def test_a_window_that_is_cleared_forgets() -> None:
    window = QuantileWindow()
    for _ in range(60):
        window.add(7.0)
    window.clear()
    assert window.count == 0
    window.add(1.0)
    assert (window.count, window.median) == (1, 1.0)


def test_estimates_start_from_the_profile() -> None:
    learns = estimates()
    for key, ms in MEDIANS.items():
        assert learns.work_ms(expected(key)) == DECODE_MS + ms
        assert learns.median_ms(expected(key)) == DECODE_MS + ms + ANSWER_MS
        assert learns.median_ms(expected(key)) < learns.bound_ms(expected(key)) <= 1.5 * (DECODE_MS + ms)
        assert learns.profiled(key).p50 == ms
        assert learns.live(key) is None
    every = [expected(k) for k in MEDIANS]
    costs = learns.costs(every)
    assert costs.works_ms == [learns.work_ms(e) for e in every]
    assert costs.medians_ms == [learns.median_ms(e) for e in every]
    assert costs.bounds_ms == [learns.bound_ms(e) for e in every]


def test_what_is_expected_of_a_picture_goes_with_its_pixels_bytes_and_reduction() -> None:
    learns = estimates()

    def expect(key: str, resolution: int, header: ImageHeader) -> Expected:
        (found,) = learns.expected([Way(key, resolution)], header, Preprocessing())
        return found

    small = expect("large", 224, ImageHeader("JPEG", 200, 100, 50_000))
    assert (small.key, small.inference_ms) == ("large", 20.0)
    assert small.decode_ms == pytest.approx(0.5 + 0.2 + 1.0)
    assert small.service_ms == pytest.approx(21.7)
    photo = expect("small", 128, ImageHeader("JPEG", 4000, 3000, 4_000_000))
    assert (photo.key, photo.inference_ms) == ("small", 2.0)
    assert photo.decode_ms == pytest.approx(1.0 + 24 + 20)


@pytest.mark.parametrize("key", MEDIANS)
def test_a_slowdown_and_the_recovery_are_followed_within_50_runs(key: str) -> None:
    covered = []
    run = expected(key)
    for seed in range(10):
        learns = estimates()
        device = Device(learns, seed)
        for slowdown in (1.0, 2.0, 1.0, 0.5, 1.0):
            device.slowdown = slowdown
            device.serve([key] * 50)
            assert learns.work_ms(run) == pytest.approx(slowdown * run.service_ms, rel=0.05)
            covered.append(device.covered(key))
            assert learns.bound_ms(run) < 1.3 * slowdown * run.service_ms + ANSWER_MS
            live = learns.live(key)
            assert live is not None
            assert live.p50 == pytest.approx(slowdown * MEDIANS[key], rel=0.05)
            assert live.p50 <= live.p95 < 1.25 * slowdown * MEDIANS[key]
    # A quantile of 48 runs is itself a draw: it holds on the average, and is never far off.
    assert np.mean(covered) >= 0.97
    assert min(covered) >= 0.9


def test_the_bound_covers_while_it_learns() -> None:
    learns = estimates()
    device = Device(learns)
    for _ in range(16):
        device.serve(["large"])
        assert device.covered("large") >= 0.9


def test_the_bound_follows_a_slowdown_at_once() -> None:
    learns = estimates()
    device = Device(learns)
    device.serve(["large"] * 100)
    device.slowdown = 2.0
    device.serve(["large"] * 5)
    assert learns.bound_ms(expected("large")) > 1.8 * expected("large").service_ms


@pytest.mark.parametrize("slowdown", [0.5, 2.0])
def test_a_variant_that_never_ran_borrows_from_the_others(slowdown: float) -> None:
    learns = estimates()
    device = Device(learns)
    device.slowdown = slowdown
    device.serve(["small"] * 50)
    assert learns.work_ms(expected("large")) == pytest.approx(
        slowdown * expected("large").service_ms, rel=0.05
    )
    assert device.covered("large") >= 0.9
    assert learns.live("large") is None


def test_a_variant_that_has_not_run_for_long_borrows_until_it_has_run_enough() -> None:
    learns = estimates()
    device = Device(learns)
    device.serve(["large"] * 60)
    device.slowdown = 2.0
    device.serve(["small"] * 300)
    run = expected("large")
    assert learns.work_ms(run) == pytest.approx(2 * run.service_ms, rel=0.05)
    assert learns.live("large") is None
    for _ in range(20):  # what it was before the slowdown must not come back
        device.serve(["large"])
        assert learns.work_ms(run) == pytest.approx(2 * run.service_ms, rel=0.05)
    assert learns.live("large") is not None


def test_variants_may_differ_in_how_far_the_profile_is_off() -> None:
    learns = estimates()
    for _ in range(60):
        for key, ratio in (("large", 1.3), ("small", 0.9)):
            run = expected(key)
            learns.observe(run, ratio * run.service_ms, ratio * run.inference_ms)
            learns.observe_answer(ANSWER_MS)
    assert learns.work_ms(expected("large")) == pytest.approx(1.3 * expected("large").service_ms)
    assert learns.work_ms(expected("small")) == pytest.approx(0.9 * expected("small").service_ms)


def test_live_figures_need_enough_runs() -> None:
    learns = estimates()
    device = Device(learns)
    device.serve(["middle"] * 15)
    assert learns.live("middle") is None
    device.serve(["middle"])
    live = learns.live("middle")
    assert live is not None
    assert live.p50 == pytest.approx(8.0, rel=0.05)


def test_a_slow_moment_of_the_fastest_leaves_it_the_fastest() -> None:
    learns = estimates()
    plans = [expected(key) for key in MEDIANS]
    for _ in range(60):
        learns.observe(plans[2], 40.0, 30.0)
        learns.observe_answer(ANSWER_MS)
    assert learns.costs(plans).bounds_ms[2] > 40.0
    assert fastest(plans) == 2


def test_the_fastest_can_always_run() -> None:
    alone = Expected("large/2 threads", DECODE_MS, 1.0, threads=2)
    assert fastest([expected("large"), alone, expected("small")]) == 2
    assert fastest([expected("small"), expected("large")]) == 0


def test_less_is_promised_of_several_threads_until_they_have_run() -> None:
    learns = estimates()
    parallel = Expected("large/2 threads", DECODE_MS, 10.0, threads=2)

    def spread() -> float:
        costs = learns.costs([parallel])
        assert costs.works_ms == [math.inf]
        return costs.bounds_ms[0] / costs.medians_ms[0]

    assert spread() == pytest.approx(1.6)
    for _ in range(20):
        learns.observe(parallel, parallel.service_ms, 10.0)
        learns.observe_answer(ANSWER_MS)
    assert spread() == pytest.approx(1.0)


def test_the_spread_is_that_of_the_noise() -> None:
    learns = estimates()
    assert learns.spread == pytest.approx(1.25)
    for _ in range(60):
        learns.observe(expected("small"), 4.0, 2.0)
        learns.observe_answer(ANSWER_MS)
    assert learns.spread == pytest.approx(1.0)


def test_slow_answers_widen_the_bound_and_not_the_work() -> None:
    """A loop that is busy now and then: the worker's time is the same, what can be promised is not."""
    learns = estimates()
    run = expected("large")
    for i in range(60):
        delay = 8.0 if i % 10 == 0 else ANSWER_MS
        learns.observe(run, run.service_ms, run.inference_ms)
        learns.observe_answer(delay)
    assert learns.work_ms(run) == run.service_ms
    assert learns.median_ms(run) == run.service_ms + ANSWER_MS
    assert learns.bound_ms(run) >= run.service_ms + 8.0
