"""Which variant to run, and whether to take a request at all: pure, without clock or I/O.

Times in milliseconds. Three figures of each variant, best variant first, as a task's variants are ordered:
how long it is to the answer in the median, its bound, which few such requests exceed, and its work, what a
worker takes in the median. A variant may be there twice: with one thread, and, where the work is infinite,
with the threads of all workers, for which all of them have to be idle.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.latency import LATE_AT_BOUND, Ahead, Costs
from service.schemas import Decision

# An answer that comes too late costs what so many right ones are worth: a budget is a promise, and a little
# more accuracy is not worth a little risk. With 20, a gain of 3 points is worth a risk of 3 in 2000.
BROKEN_PROMISE = 20.0
# So many times as far beyond the bound as that is beyond the median nobody is late: 1 in 2 x 10^13.
_SURE = 9.0
# What it has to gain at least to keep all workers from others, though none is there.
ALL_WORKERS = 0.02
# What one in a hurry has to gain at least to hold up another that has started.
HOLD_UP = 0.05
# With so many for each worker before it, one will still wait when those come that are due earlier.
_LONG = 10


@dataclass(slots=True)
class Choice:
    """The chosen variant's place among the costs, and why. `lost` is how much less it is worth than what an
    idle device would have run."""

    index: int
    decision: Decision
    lost: float = 0.0


def choose(
    costs: Costs,
    top1: Sequence[float],
    fastest: int,
    slack_ms: float,
    idle_slack_ms: float,
    allowance_ms: float = math.inf,
    prices: Sequence[float] | None = None,
) -> Choice:
    """The variant worth most that fits the time left and leaves enough to those behind.

    `slack_ms` is what is left now, `idle_slack_ms` what was left when the request could first have run:
    a device without load would have chosen by it. `allowance_ms` is the most work that this request may
    be for the sake of others (see `allowance_ms`), and `prices` what each variant costs them, in accuracy. A
    variant is worth its accuracy, less the risk to be late, less its price. When none fits, `fastest` is
    chosen.
    """
    idle = chosen = None
    idle_worth = ideal_net = chosen_net = -math.inf
    for i, bound in enumerate(costs.bounds_ms):
        if bound > idle_slack_ms:
            continue
        accuracy, median = top1[i], costs.medians_ms[i]
        if costs.works_ms[i] == math.inf:
            accuracy -= ALL_WORKERS
        net = accuracy - prices[i] if prices is not None else accuracy
        if accuracy > idle_worth or net > ideal_net:  # before the risk, which costs more time to tell
            risk = _risk(accuracy, median, bound, idle_slack_ms)
            if accuracy - risk > idle_worth:
                idle, idle_worth = i, accuracy - risk
            ideal_net = max(ideal_net, net - risk)
        if net > chosen_net and bound <= slack_ms and costs.works_ms[i] <= allowance_ms:
            net -= _risk(accuracy, median, bound, slack_ms)
            if net > chosen_net:
                chosen, chosen_net = i, net
    if idle is None:
        return Choice(fastest, "infeasible")
    if chosen is None:
        chosen, chosen_net = fastest, top1[fastest] - (prices[fastest] if prices is not None else 0.0)
    lost = max(0.0, ideal_net - chosen_net)
    return Choice(chosen, "fits" if chosen == idle else "degraded", lost)


def choose_ahead(
    ahead: Ahead,
    costs: Costs,
    top1: Sequence[float],
    slack_ms: float,
    wait_ms: float,
    spare_ms: float,
    prices: Sequence[float] | None = None,
) -> int | None:
    """The variant by which to run at once, ahead of a request that has started and has `spare_ms` left; None
    where that gains less than `HOLD_UP` over waiting `wait_ms` for a worker."""
    paid = prices if prices is not None else [0.0] * len(top1)
    waiting, left_ms = 0.0, slack_ms - wait_ms
    for i, bound in enumerate(costs.bounds_ms):
        net = top1[i] - paid[i]
        if bound <= left_ms and net > waiting:  # before the risk, which costs more time to tell
            waiting = max(waiting, net - _risk(top1[i], costs.medians_ms[i], bound, left_ms))
    best, chosen = waiting + HOLD_UP, None
    for i, bound in enumerate(ahead.bounds_ms):
        net = top1[i] - paid[i]
        if bound <= slack_ms and net > best and ahead.holds_ms[i] <= spare_ms:
            net -= _risk(top1[i], ahead.medians_ms[i], bound, slack_ms)
            if net > best:
                best, chosen = net, i
    return chosen


def _risk(accuracy: float, median_ms: float, bound_ms: float, slack_ms: float) -> float:
    """What being late costs, times its probability."""
    if slack_ms > bound_ms + _SURE * (bound_ms - median_ms):
        return 0.0
    return (accuracy + BROKEN_PROMISE) * late_probability(median_ms, bound_ms, slack_ms)


def late_probability(median_ms: float, bound_ms: float, slack_ms: float) -> float:
    """That something takes longer than `slack_ms`, were its tail beyond the median exponential."""
    if slack_ms <= median_ms:
        return 1.0 if slack_ms < median_ms else 0.5
    if bound_ms <= median_ms:
        return 0.0
    return 0.5 * float((2 * LATE_AT_BOUND) ** ((slack_ms - median_ms) / (bound_ms - median_ms)))


def frontier(works_ms: Sequence[float], top1: Sequence[float]) -> Sequence[int]:
    """The variants worth running when time is short, the cheapest first.

    It begins with the most accuracy for its work: when there is work for all time that there is, a smaller
    one would answer more requests and be right less often. From there the next is the one that buys the most
    accuracy for each further millisecond (the upper convex hull); all others are beaten by a mix of these.
    """
    per_ms = [accuracy / work for accuracy, work in zip(top1, works_ms, strict=True)]
    first = per_ms.index(max(per_ms))
    hull = [first]
    for i in range(first - 1, -1, -1):
        work, accuracy = works_ms[i], top1[i]
        while len(hull) > 1:
            last, before = hull[-1], hull[-2]
            # The slope from `before` to `last` against that from `before` to `i`.
            gained, paid = top1[last] - top1[before], works_ms[last] - works_ms[before]
            if (accuracy - top1[before]) * paid < gained * (work - works_ms[before]):
                break
            hull.pop()
        hull.append(i)
    return hull


def allowance_ms(works_ms: Sequence[float], frontier: Sequence[int], limit_ms: float) -> float:
    """The work of the largest variant of the frontier within the limit, and of its first in any case."""
    within = (works_ms[i] for i in frontier if works_ms[i] <= limit_ms)
    return max(within, default=works_ms[frontier[0]])


def common_work(
    slacks_ms: Iterable[float], workers: int, spread: float, fastest_ms: float, share_ms: float = math.inf
) -> float:
    """The largest work that all waiting requests could be and still be on time.

    `slacks_ms` are of the requests in the order in which they will run, the next one first: with a work of
    w each, the i-th of `workers` in parallel starts after w i / workers and is answered `spread` w later at
    the latest. A request that would miss even as the fastest variant, with a bound of `fastest_ms`, cannot be
    helped and holds nobody back. Behind `_LONG` for each worker, those count too that come meanwhile, one for
    each `share_ms` of a worker's time. Infinite when nobody constrains.
    """
    work = math.inf
    for i, slack in enumerate(slacks_ms):
        each = spread + i / workers
        if i >= _LONG * workers:
            each += slack / share_ms if share_ms else math.inf  # 0: they all came at once
        share = slack / each
        if share < work and fastest_ms <= share * spread:
            work = share
    return work


class Demand(Protocol):
    """A waiting request: when it has to be answered, if ever, the bound of the least variant that it may be
    answered by, and the work it will be."""

    @property
    def deadline(self) -> float | None: ...
    @property
    def least_ms(self) -> float: ...
    @property
    def work_ms(self) -> float: ...


def lateness_ms(
    job: Demand,
    least_ms: float,
    free_at: Sequence[float],
    ahead: Iterable[Demand],
    behind: Iterable[Demand],
    factor: float = 1.0,
) -> float:
    """How late a request would be if it were taken, or how late it would make another; <= 0 is in time.

    `least_ms` takes the place of its own, `free_at` is when each worker will be free, and `ahead` and
    `behind` are the requests before and after it, in the order in which they will run, each of `factor` times
    its work. Who would be late anyway does not count.
    """
    free = list(free_at)
    heapq.heapify(free)
    for other in ahead:
        heapq.heapreplace(free, free[0] + factor * other.work_ms)
    latest = -math.inf if job.deadline is None else free[0] + least_ms - job.deadline
    without = list(free)
    heapq.heapreplace(free, free[0] + factor * job.work_ms)
    for other in behind:
        if other.deadline is not None:
            late = free[0] + other.least_ms - other.deadline
            if late > latest and without[0] + other.least_ms <= other.deadline:
                latest = late
        work = factor * other.work_ms
        heapq.heapreplace(free, free[0] + work)
        heapq.heapreplace(without, without[0] + work)
    return latest


def fit_faces(per_face_ms: Sequence[float], faces: int, slack_ms: float) -> tuple[int, int]:
    """The place of the network for so many faces, and for how many of them there is time.

    `per_face_ms` are bounds, the most accurate network first. It is the first by which all are in time. When
    there is none it is the fastest, for as many as are, and for one in any case.
    """
    for i, bound in enumerate(per_face_ms):
        if faces * bound <= slack_ms:
            return i, faces
    fastest = min(range(len(per_face_ms)), key=per_face_ms.__getitem__)
    return fastest, min(faces, max(1, int(slack_ms / per_face_ms[fastest])))
