"""The planner's arithmetic: which variant, how much for those behind, and how late a request would be."""

import heapq
import itertools
import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import planner
from service.latency import LATE_AT_BOUND, Ahead, Costs
from service.planner import BROKEN_PROMISE, Choice, late_probability

TOP1 = [0.7, 0.65, 0.6, 0.4]
WORKS = [30.0, 15.0, 8.0, 4.0]
COSTS = Costs(WORKS, WORKS, [40.0, 20.0, 10.0, 5.0])
_COST = st.floats(0.1, 1000)
_LIMIT = st.floats(-100, 2000) | st.just(math.inf)


@pytest.mark.parametrize(
    ("slack", "idle_slack", "allowance", "index", "decision"),
    [
        (50, 50, math.inf, 0, "fits"),
        (45, 45, math.inf, 1, "fits"),  # 5 points of accuracy are not worth a risk of 0.6 %
        (39.9, 39.9, math.inf, 1, "fits"),
        (25, 50, math.inf, 1, "degraded"),  # it waited
        (50, 50, 12, 2, "degraded"),  # others wait
        (50, 50, 15, 1, "degraded"),  # exactly
        (25, 25, 16, 1, "fits"),  # the allowance takes nothing away
        (3, 50, math.inf, 3, "degraded"),  # nothing fits any more
        (50, 50, 1, 3, "degraded"),
        (-5, 4.9, math.inf, 3, "infeasible"),
        (4.9, 4.9, math.inf, 3, "infeasible"),
        (5, 5, math.inf, 3, "fits"),  # exactly
    ],
)
def test_the_most_accurate_that_fits(
    slack: float, idle_slack: float, allowance: float, index: int, decision: str
) -> None:
    choice = planner.choose(COSTS, TOP1, 3, slack, idle_slack, allowance)
    assert (choice.index, choice.decision) == (index, decision)


def test_a_larger_variant_may_be_the_faster_one() -> None:
    # As int8 on a device without its instructions: the order is by accuracy, not by cost.
    each = [10.0, 30.0, 4.0, 6.0]
    costs = Costs(each, each, each)
    assert planner.choose(costs, TOP1, 2, 35, 35).index == 0
    assert planner.choose(costs, TOP1, 2, 9, 9).index == 2
    assert planner.choose(costs, TOP1, 2, 1, 50).index == 2


@pytest.mark.parametrize(
    ("slack", "allowance", "index", "decision"),
    [
        (60, math.inf, 0, "fits"),  # one thread is enough
        (30, math.inf, 1, "fits"),  # all threads, alone
        (30, 100, 2, "degraded"),  # the workers are not free
        (22, math.inf, 2, "fits"),
        (1, math.inf, 2, "fits"),  # too late for any, and an idle device would have run the same
    ],
)
def test_all_threads_only_where_they_buy_accuracy_and_nobody_else_wants_a_worker(
    slack: float, allowance: float, index: int, decision: str
) -> None:
    costs = Costs([30.0, math.inf, 15.0], [30.0, 17.0, 15.0], [40.0, 23.0, 20.0])
    choice = planner.choose(costs, [0.7, 0.7, 0.6], 2, slack, max(slack, 22), allowance)
    assert (choice.index, choice.decision) == (index, decision)


def test_what_costs_the_others_more_than_it_gains_does_not_run() -> None:
    def chosen(price_per_ms: float) -> Choice:
        return planner.choose(COSTS, TOP1, 3, 100, 100, math.inf, [price_per_ms * ms for ms in WORKS])

    choices = [chosen(price) for price in (0.0, 0.003, 0.005, 0.02, 0.06)]
    assert [choice.index for choice in choices] == [0, 0, 1, 2, 3]
    assert all(choice.lost == pytest.approx(0) for choice in choices)  # an idle device would pay the same


def test_what_load_costs_a_request_is_what_an_idle_device_would_have_gained() -> None:
    prices = [0.03, 0.02, 0.01, 0.0]
    waited = planner.choose(COSTS, TOP1, 3, 15, 100, math.inf, prices)
    assert (waited.index, waited.decision) == (2, "degraded")
    # 0.70 - 0.03 of the largest, without a risk, to 0.60 - 0.01 of this one, with one of 0.00001 * 9.6.
    assert waited.lost == pytest.approx(0.08, abs=0.001)
    too_late = planner.choose(COSTS, TOP1, 3, 3, 100, math.inf, prices)
    assert too_late.index == 3
    assert too_late.lost == pytest.approx(0.27, abs=0.001)


def test_the_probability_to_be_late_by_hand() -> None:
    assert late_probability(30, 40, 30) == 0.5
    assert late_probability(30, 40, 40) == pytest.approx(LATE_AT_BOUND)
    assert late_probability(30, 40, 50) == pytest.approx(0.5 * 0.05**2)
    assert late_probability(30, 40, 29) == 1
    assert late_probability(30, 30, 31) == 0  # it always takes the same
    assert late_probability(30, 40, math.inf) == 0


@given(_COST, st.floats(1.01, 3), st.floats(0, 2000), st.floats(0, 2000))
def test_more_time_is_never_later(median: float, spread: float, slack: float, more: float) -> None:
    sooner = late_probability(median, spread * median, slack)
    assert 0 <= late_probability(median, spread * median, slack + more) <= sooner <= 1


def test_the_frontier_has_only_what_can_always_run() -> None:
    assert planner.frontier([30.0, math.inf, 8.0], [0.7, 0.7, 0.6]) == [2, 0]
    assert planner.frontier([8.0, math.inf], [0.7, 0.7]) == [0]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.booleans()), min_size=1, max_size=9))
def test_plans_of_all_workers_change_no_frontier(variants: list[tuple[int, int, bool]]) -> None:
    """Some variants have one beside the plan with one thread; of equal accuracy, and with infinite work."""
    works: list[float] = []
    top1: list[float] = []
    places: list[int] = []
    for work, accuracy, several in sorted(variants, key=lambda v: -v[1]):
        places.append(len(works))
        works += [float(work), math.inf] if several else [float(work)]
        top1 += [accuracy / 10] * (2 if several else 1)
    alone = planner.frontier([works[i] for i in places], [top1[i] for i in places])
    assert planner.frontier(works, top1) == [places[i] for i in alone]


_VARIANTS = st.lists(st.tuples(_COST, st.floats(0.05, 1)), min_size=1, max_size=16).map(
    lambda variants: sorted(variants, key=lambda v: -v[1])
)
_SPREADS = st.floats(1.05, 3.0)


def choose(
    variants: list[tuple[float, float]], spread: float, slack: float, idle_slack: float, allowance: float
) -> Choice:
    """`variants` are works and accuracies."""
    works = [work for work, _ in variants]
    costs = Costs(works, works, [spread * work for work in works])
    top1 = [accuracy for _, accuracy in variants]
    return planner.choose(costs, top1, works.index(min(works)), slack, idle_slack, allowance)


@given(_VARIANTS, _SPREADS, _LIMIT, _LIMIT, _LIMIT)
def test_what_is_chosen_fits_and_nothing_that_fits_is_worth_more(
    variants: list[tuple[float, float]], spread: float, slack: float, waited: float, allowance: float
) -> None:
    idle_slack = slack + abs(waited)
    choice = choose(variants, spread, slack, idle_slack, allowance)
    worth = {
        i: accuracy - (accuracy + BROKEN_PROMISE) * late_probability(work, spread * work, slack)
        for i, (work, accuracy) in enumerate(variants)
        if spread * work <= slack and work <= allowance
    }
    least = min(work for work, _ in variants)
    assert (choice.decision == "infeasible") == (spread * least > idle_slack)
    if worth:
        assert worth[choice.index] == max(worth.values())
    else:
        assert variants[choice.index][0] == least
    if choice.decision == "fits":
        assert choice.index == choose(variants, spread, idle_slack, idle_slack, math.inf).index


@given(_VARIANTS, _SPREADS, _LIMIT, _LIMIT, _LIMIT, _LIMIT)
def test_less_time_never_buys_a_more_accurate_variant(
    variants: list[tuple[float, float]],
    spread: float,
    slack: float,
    allowance: float,
    less_slack: float,
    less_allowance: float,
) -> None:
    idle_slack = max(slack, less_slack, *(spread * work for work, _ in variants))
    more = choose(variants, spread, slack, idle_slack, allowance)
    less = choose(variants, spread, min(slack, less_slack), idle_slack, min(allowance, less_allowance))
    fastest = min(range(len(variants)), key=lambda i: variants[i][0])
    assert variants[less.index][1] <= variants[more.index][1] or less.index == fastest


_RANKED = st.lists(st.tuples(_COST, st.floats(0.01, 1)), min_size=1, max_size=16).map(
    lambda variants: sorted(variants, key=lambda v: -v[1])
)


def test_the_frontier_by_hand() -> None:
    assert planner.frontier([10], [0.7]) == [0]
    # 0.12, 0.13 and 0.1 of accuracy a millisecond: the last is no use.
    assert planner.frontier([6, 5, 4], [0.72, 0.65, 0.4]) == [1, 0]
    # The second is below the line from the third to the first.
    assert planner.frontier([10, 9, 4], [0.7, 0.61, 0.6]) == [2, 0]
    # The first costs less than the second.
    assert planner.frontier([5, 9, 4], [0.7, 0.65, 0.6]) == [2, 0]


@given(_RANKED)
def test_no_mix_of_variants_beats_the_frontier(variants: list[tuple[float, float]]) -> None:
    works, top1 = [v[0] for v in variants], [v[1] for v in variants]
    found = planner.frontier(works, top1)
    assert all(top1[found[0]] / works[found[0]] >= t / w * (1 - 1e-9) for w, t in variants)
    points = [(works[i], top1[i]) for i in found]
    assert points == sorted(points)
    for work, accuracy in variants:
        for (w0, t0), (w1, t1) in itertools.pairwise(points):
            if w0 <= work <= w1 and w1 > w0:
                assert accuracy <= t0 + (t1 - t0) * (work - w0) / (w1 - w0) + 1e-9
    assert max(top1) == top1[found[-1]]


@given(_RANKED, st.floats(0.1, 1000))
def test_the_allowance_is_of_the_frontier_and_within_the_limit_where_one_is(
    variants: list[tuple[float, float]], limit: float
) -> None:
    works = [v[0] for v in variants]
    found = planner.frontier(works, [v[1] for v in variants])
    allowed = planner.allowance_ms(works, found, limit)
    assert allowed in [works[i] for i in found]
    assert allowed <= limit or allowed == works[found[0]]


def test_the_first_of_the_frontier_may_have_to_be_loaded() -> None:
    """Then another takes less, and is all that is allowed."""
    assert planner.allowance_ms([30, 500], [1, 0], 40) == 30
    assert planner.allowance_ms([30, math.inf], [1, 0], 40) == 30
    assert planner.allowance_ms([30, 500], [1, 0], 20) == 500


def test_common_work_by_hand() -> None:
    assert planner.common_work([30], 1, 1.0, 5) == 30
    assert planner.common_work([30], 1, 1.5, 5) == 20  # its bound is half as much again
    assert planner.common_work([30, 30], 1, 1.0, 5) == 15  # one after the other
    assert planner.common_work([30, 30, 30], 2, 1.0, 5) == 15
    assert planner.common_work([30, 8, 40], 1, 1.0, 5) == pytest.approx(40 / 3)  # the second: no help
    assert planner.common_work([], 2, 1.0, 5) == math.inf
    assert planner.common_work([-3, 2], 2, 1.0, 5) == math.inf
    assert planner.common_work([math.inf, math.inf], 2, 1.0, 5) == math.inf


def test_common_work_of_a_long_queue_leaves_their_share_to_those_that_come_meanwhile() -> None:
    slacks = [400.0] * 21
    assert planner.common_work(slacks, 2, 1.0, 5) == pytest.approx(400 / 11)
    assert planner.common_work(slacks[:20], 2, 1.0, 5, 10) == pytest.approx(400 / 10.5)  # not so long
    # Of the 2 x 400 ms that the workers have until then, 80 more want one each.
    assert planner.common_work(slacks, 2, 1.0, 5, 10) == pytest.approx(400 / (11 + 40))
    # By a clock that tells none of the latest arrivals apart there is no time for the last one.
    assert planner.common_work(slacks, 2, 1.0, 5, 0) == pytest.approx(400 / 10.5)


_SLACKS = st.lists(st.floats(-50, 1000), max_size=40)
_SPREAD = st.floats(1, 4)


@given(_SLACKS, st.integers(1, 16), _SPREAD, st.floats(0.1, 50))
def test_at_the_common_work_all_who_can_be_helped_are_on_time_and_no_more_is_possible(
    slacks: list[float], workers: int, spread: float, fastest: float
) -> None:
    work = planner.common_work(slacks, workers, spread, fastest)

    def on_time(each: float) -> list[bool]:
        return [each * (spread + i / workers) <= slack for i, slack in enumerate(slacks)]

    shares = [slack / (spread + i / workers) for i, slack in enumerate(slacks)]
    helped = [i for i, share in enumerate(shares) if fastest <= share * spread]
    if not helped:
        assert work == math.inf
        return
    assert work * spread >= fastest
    assert all(on_time(work * (1 - 1e-9))[i] for i in helped)
    assert not all(on_time(work * (1 + 1e-9))[i] for i in helped)


@given(_SLACKS, st.integers(1, 8), _SPREAD, st.floats(0.1, 50), st.floats(-50, 1000))
def test_one_more_behind_never_raises_the_common_work(
    slacks: list[float], workers: int, spread: float, fastest: float, one_more: float
) -> None:
    before = planner.common_work(slacks, workers, spread, fastest)
    assert planner.common_work([*slacks, one_more], workers, spread, fastest) <= before


class Waits(NamedTuple):
    deadline: float | None
    least_ms: float
    work_ms: float


def test_lateness_by_hand() -> None:
    job = Waits(deadline=120, least_ms=5, work_ms=10)

    def lateness(free_at: list[float], ahead: list[Waits], behind: list[Waits], factor: float = 1) -> float:
        return planner.lateness_ms(job, job.least_ms, free_at, ahead, behind, factor)

    assert lateness([100], [], []) == -15
    assert lateness([115], [], []) == 0
    assert lateness([118], [], []) == 3
    assert lateness([108], [Waits(110, 5, 10)], []) == 3
    # The worker that is free first counts, not the mean of the two.
    assert lateness([100, 136], [], []) == -15
    assert lateness([118, 136], [], []) == 3
    # It is in time itself, and pushes the one behind over its deadline by 2.
    assert lateness([100], [], [Waits(113, 5, 10)]) == 2
    # That one would be late without it, too.
    assert lateness([100], [], [Waits(103, 5, 10)]) == -15
    # The second behind waits for the first.
    assert lateness([100], [], [Waits(190, 5, 10), Waits(121, 5, 10)]) == 4
    # Who has no deadline is never late, but makes others wait.
    assert lateness([100], [], [Waits(None, 5, 10)]) == -15
    assert lateness([100], [], [Waits(None, 5, 10), Waits(121, 5, 10)]) == 4
    # All works count so many times, bounds once.
    assert lateness([108], [Waits(110, 5, 10)], [], 1.5) == 8
    assert lateness([100], [], [Waits(113, 5, 10)], 1.5) == 7
    # It is taken by less than what is its own least.
    assert planner.lateness_ms(job, 3, [118], [], []) == 1
    # It has no deadline itself.
    assert planner.lateness_ms(Waits(None, 5, 10), 5, [118], [], []) == -math.inf


_WAITS = st.builds(Waits, st.none() | st.floats(-50, 500), st.floats(0.1, 20), st.floats(0.1, 100))
_WAITING = st.lists(_WAITS, max_size=10)
_FREE = st.lists(st.floats(0, 100), min_size=1, max_size=4)
_FACTOR = st.floats(1, 2)


def lateness_of_all(
    jobs: list[Waits], free_at: list[float], ahead: list[Waits], factor: float
) -> list[float]:
    """Each one's, by running them in order on whichever worker is free first."""
    free = sorted(free_at)
    late = []
    for each in [*ahead, *jobs]:
        late.append(-math.inf if each.deadline is None else free[0] + each.least_ms - each.deadline)
        heapq.heapreplace(free, free[0] + factor * each.work_ms)
    return late[len(ahead) :]


@given(_WAITS, _FREE, _WAITING, _WAITING, _FACTOR)
def test_lateness_is_that_of_the_worst_whom_taking_the_request_makes_late(
    job: Waits, free: list[float], ahead: list[Waits], behind: list[Waits], factor: float
) -> None:
    own, *others = lateness_of_all([job, *behind], free, ahead, factor)
    without = lateness_of_all(behind, free, ahead, factor)
    made_late = [after for before, after in zip(without, others, strict=True) if before <= 0]
    found = planner.lateness_ms(job, job.least_ms, free, ahead, behind, factor)
    assert found == pytest.approx(max([own, *made_late]))


@given(_WAITS, _FREE, _WAITING, _WAITS)
def test_more_work_ahead_makes_no_earlier(
    job: Waits, free: list[float], ahead: list[Waits], more: Waits
) -> None:
    less = planner.lateness_ms(job, job.least_ms, free, ahead, [])
    assert planner.lateness_ms(job, job.least_ms, free, [*ahead, more], []) >= less


AHEAD = Ahead([36.0, 18.0, 10.0, 5.0], [45.0, 24.0, 13.0, 7.0], [45.0, 24.0, 13.0, 7.0])


@pytest.mark.parametrize(
    ("slack", "wait", "spare", "index"),
    [
        (30, 28, 100, 1),  # waiting, it could be nothing
        (30, 28, 20, 2),  # the other has not the time for more
        (30, 28, 6.9, None),
        (30, 1, 100, None),  # waiting, it can be the same
        (30, 16, 100, None),  # or nearly: 2
        (30, 24, 100, 1),  # waiting, 3 alone
        (6, 5, 100, None),  # ahead nothing fits either
        (100, 0, 100, None),
    ],
)
def test_one_in_a_hurry_goes_ahead_where_it_gains_by_it(
    slack: float, wait: float, spare: float, index: int | None
) -> None:
    assert planner.choose_ahead(AHEAD, COSTS, TOP1, slack, wait, spare) == index


def test_ahead_too_a_variant_has_to_be_worth_its_price() -> None:
    assert planner.choose_ahead(AHEAD, COSTS, TOP1, 30, 28, 100, [0.5, 0.3, 0.1, 0.05]) == 2
    assert planner.choose_ahead(AHEAD, COSTS, TOP1, 30, 28, 100, [0.7, 0.65, 0.6, 0.4]) is None


@given(st.lists(st.tuples(_COST, _COST), min_size=4, max_size=4), _LIMIT, _LIMIT, _LIMIT)
def test_who_goes_ahead_is_in_time_and_so_is_who_is_held_up(
    pairs: list[tuple[float, float]], slack: float, wait: float, spare: float
) -> None:
    bounds = [a + b for a, b in pairs]
    ahead = Ahead([a for a, _ in pairs], bounds, [b for _, b in pairs])
    found = planner.choose_ahead(ahead, COSTS, TOP1, slack, max(0.0, wait), spare)
    if found is not None:
        assert ahead.bounds_ms[found] <= slack
        assert ahead.holds_ms[found] <= spare
        waited = [a for a, b in zip(TOP1, COSTS.bounds_ms, strict=True) if b <= slack - max(0.0, wait)]
        surely = [a - 9.7 * LATE_AT_BOUND for a in waited]
        assert TOP1[found] > max(surely, default=0.0)
