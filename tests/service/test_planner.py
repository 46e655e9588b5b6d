"""The planner's arithmetic: which variant, how much for those behind, and how late a request would be."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import planner
from service.planner import Demand

COSTS = [40.0, 20.0, 10.0, 5.0]
_COST = st.floats(0.1, 1000)
_COSTS = st.lists(_COST, min_size=1, max_size=16)
_LIMIT = st.floats(-100, 2000) | st.just(math.inf)


@pytest.mark.parametrize(
    ("slack", "idle_slack", "allowance", "index", "decision"),
    [
        (50, 50, math.inf, 0, "fits"),
        (40, 40, math.inf, 0, "fits"),  # exactly
        (39.9, 39.9, math.inf, 1, "fits"),
        (25, 50, math.inf, 1, "degraded"),  # it waited
        (50, 50, 12, 2, "degraded"),  # others wait
        (25, 25, 20, 1, "fits"),  # the allowance takes nothing away
        (3, 50, math.inf, 3, "degraded"),  # nothing fits any more
        (50, 50, 1, 3, "degraded"),
        (-5, 4.9, math.inf, 3, "infeasible"),
        (4.9, 4.9, math.inf, 3, "infeasible"),
        (5, 5, math.inf, 3, "fits"),
    ],
)
def test_the_most_accurate_that_fits(
    slack: float, idle_slack: float, allowance: float, index: int, decision: str
) -> None:
    choice = planner.choose(COSTS, slack, idle_slack, allowance)
    assert (choice.index, choice.decision) == (index, decision)


def test_a_larger_variant_may_be_the_faster_one() -> None:
    # As int8 on a device without its instructions: the order is by accuracy, not by cost.
    assert planner.choose([10, 30, 4, 6], 35, 35).index == 0
    assert planner.choose([10, 30, 4, 6], 9, 9).index == 2
    assert planner.choose([10, 30, 4, 6], 1, 50).index == 2


@given(_COSTS, _LIMIT, _LIMIT, _LIMIT)
def test_what_is_chosen_fits_and_nothing_more_accurate_does(
    costs: list[float], slack: float, waited: float, allowance: float
) -> None:
    idle_slack = slack + abs(waited)
    choice = planner.choose(costs, slack, idle_slack, allowance)
    limit = min(slack, allowance)
    cost = costs[choice.index]
    assert all(better > limit for better in costs[: choice.index]) or choice.decision == "infeasible"
    assert cost <= limit or cost == min(costs)
    assert (choice.decision == "infeasible") == (min(costs) > idle_slack)
    if choice.decision == "fits":
        alone = planner.choose(costs, idle_slack, idle_slack)
        assert choice == alone


@given(_COSTS, _LIMIT, _LIMIT, _LIMIT, _LIMIT)
def test_less_time_never_buys_a_costlier_variant(
    costs: list[float], slack: float, allowance: float, less_slack: float, less_allowance: float
) -> None:
    idle_slack = max(slack, less_slack, min(costs))
    more = planner.choose(costs, slack, idle_slack, allowance)
    less = planner.choose(costs, min(slack, less_slack), idle_slack, min(allowance, less_allowance))
    assert costs[less.index] <= costs[more.index]


@given(_COSTS, _LIMIT)
def test_no_allowance_means_no_limit(costs: list[float], slack: float) -> None:
    assert planner.choose(costs, slack, slack) == planner.choose(costs, slack, slack, math.inf)


def test_the_most_accuracy_for_its_time() -> None:
    assert planner.most_efficient([10, 5, 4], [0.7, 0.6, 0.4]) == 1
    assert planner.most_efficient([10], [0.7]) == 0


@given(st.lists(st.tuples(_COST, st.floats(0.01, 1)), min_size=1, max_size=16))
def test_nothing_gives_more_accuracy_a_millisecond(variants: list[tuple[float, float]]) -> None:
    costs, top1 = [v[0] for v in variants], [v[1] for v in variants]
    best = planner.most_efficient(costs, top1)
    assert all(top1[best] / costs[best] >= t / c for c, t in variants)


def test_common_cost_by_hand() -> None:
    assert planner.common_cost([30], 1, 5) == 30
    assert planner.common_cost([30, 30], 1, 5) == 15  # one after the other
    assert planner.common_cost([30, 30, 30], 2, 5) == 15
    assert planner.common_cost([30, 8, 40], 1, 5) == pytest.approx(40 / 3)  # the second cannot be helped
    assert planner.common_cost([], 2, 5) == math.inf
    assert planner.common_cost([-3, 2], 2, 5) == math.inf
    assert planner.common_cost([math.inf, math.inf], 2, 5) == math.inf


_SLACKS = st.lists(st.floats(-50, 1000), max_size=40)


@given(_SLACKS, st.integers(1, 16), st.floats(0.1, 50))
def test_at_the_common_cost_all_who_can_be_helped_are_on_time_and_no_more_is_possible(
    slacks: list[float], workers: int, fastest: float
) -> None:
    cost = planner.common_cost(slacks, workers, fastest)

    def on_time(each: float) -> list[bool]:
        return [each * (1 + i / workers) <= slack for i, slack in enumerate(slacks)]

    helped = [i for i, slack in enumerate(slacks) if fastest <= slack / (1 + i / workers)]
    if not helped:
        assert cost == math.inf
        return
    assert cost >= fastest
    assert all(on_time(cost * (1 - 1e-9))[i] for i in helped)
    assert not all(on_time(cost * (1 + 1e-9))[i] for i in helped)


@given(_SLACKS, st.integers(1, 8), st.floats(0.1, 50), st.floats(-50, 1000))
def test_one_more_behind_never_raises_the_common_cost(
    slacks: list[float], workers: int, fastest: float, one_more: float
) -> None:
    before = planner.common_cost(slacks, workers, fastest)
    assert planner.common_cost([*slacks, one_more], workers, fastest) <= before


def test_the_steady_cost_fills_the_workers_time() -> None:
    assert planner.steady_cost(0, 4) == math.inf
    for rate, workers in itertools.product((0.01, 0.2, 3), (1, 2, 8)):
        cost = planner.steady_cost(rate, workers)
        assert rate * cost / workers == pytest.approx(planner.UTILISATION)
        assert planner.steady_cost(2 * rate, workers) == pytest.approx(cost / 2)


def test_lateness_by_hand() -> None:
    job = Demand(slack_ms=20, fastest_ms=5, work_ms=10)
    assert planner.lateness_ms(job, 0, [], 1) == -15
    assert planner.lateness_ms(job, 15, [], 1) == 0
    assert planner.lateness_ms(job, 18, [], 1) == 3
    assert planner.lateness_ms(job, 36, [], 2) == 3
    # It is in time itself, and pushes the one behind over its deadline by 2.
    assert planner.lateness_ms(job, 0, [Demand(13, 5, 10)], 1) == 2
    # That one would be late without it, too.
    assert planner.lateness_ms(job, 0, [Demand(3, 5, 10)], 1) == -15
    # The second behind waits for the first.
    assert planner.lateness_ms(job, 0, [Demand(90, 5, 10), Demand(21, 5, 10)], 1) == 4
    # Who has no deadline is never late.
    assert planner.lateness_ms(job, 0, [Demand(math.inf, 5, 10)], 1) == -15


_DEMAND = st.builds(Demand, st.floats(-50, 500), st.floats(0.1, 20), st.floats(0.1, 100))
_DEMANDS = st.lists(_DEMAND, max_size=10)


@given(_DEMAND, st.floats(0, 500), _DEMANDS, st.integers(1, 8))
def test_when_taking_a_request_is_in_time_nobody_becomes_late(
    job: Demand, ahead: float, behind: list[Demand], workers: int
) -> None:
    def ends_late(jobs: list[Demand], work: float) -> list[bool]:
        late = []
        for each in jobs:
            late.append(work / workers + each.fastest_ms - each.slack_ms > 1e-6)
            work += each.work_ms
        return late

    lateness = planner.lateness_ms(job, ahead, behind, workers)
    assert math.isfinite(lateness)
    without, with_it = ends_late(behind, ahead), ends_late([job, *behind], ahead)
    if lateness <= 0:
        assert not with_it[0]
        assert all(before or not after for before, after in zip(without, with_it[1:], strict=True))
    else:
        own = ahead / workers + job.fastest_ms - job.slack_ms
        pushed = any(
            after and not before
            for before, after in zip(ends_late(behind, ahead - 1e-3), with_it[1:], strict=True)
        )
        assert own > 0 or pushed or lateness < 1e-3


@given(_DEMAND, st.floats(0, 500), st.floats(0, 500), st.integers(1, 8))
def test_more_work_ahead_makes_later(job: Demand, ahead: float, more: float, workers: int) -> None:
    assert planner.lateness_ms(job, ahead + more, [], workers) >= planner.lateness_ms(job, ahead, [], workers)
