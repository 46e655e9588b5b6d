"""Which variant to run, and whether to take a request at all: pure, without clock or I/O.

Times in milliseconds. Two figures of each variant, best variant first, as a task's variants are ordered: its
bound is what almost all such requests take to the answer, its work what a worker takes in the median.
Bounds are for promises, work is for sharing the workers. A variant may be there twice: with one thread, and,
where the work is infinite, with the threads of all workers, for which all of them have to be idle.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.schemas import Decision

# What requests leave of their shares is spread over so many to come, and no more than so many shares are kept
# or owed, so that a request may be half a share to one and a half. Tuned with bench/simulator.py.
_SPREAD_OVER = 32
_MOST_KEPT = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen variant's place among the costs, and why."""

    index: int
    decision: Decision


def choose(
    bounds_ms: Sequence[float],
    works_ms: Sequence[float],
    fastest: int,
    slack_ms: float,
    idle_slack_ms: float,
    allowance_ms: float = math.inf,
) -> Choice:
    """The most accurate variant that fits the time left and leaves enough to those behind.

    `slack_ms` is what is left now, `idle_slack_ms` what was left when the request could first have run:
    a device without load would have chosen by it. `allowance_ms` is the most work that this request may
    be for the sake of others (see `allowance_ms`). When nothing fits, `fastest` is chosen.
    """
    idle = chosen = None
    for i, bound in enumerate(bounds_ms):
        if bound <= idle_slack_ms:
            if idle is None:
                idle = i
            if bound <= slack_ms and works_ms[i] <= allowance_ms:
                chosen = i
                break
    if idle is None:
        return Choice(fastest, "infeasible")
    if chosen is None:
        chosen = fastest
    return Choice(chosen, "fits" if chosen == idle else "degraded")


def frontier(works_ms: Sequence[float], top1: Sequence[float]) -> list[int]:
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


def common_work(slacks_ms: Iterable[float], workers: int, spread: float, fastest_ms: float) -> float:
    """The largest work that all waiting requests could be and still be on time.

    `slacks_ms` are of the requests in the order in which they will run, the next one first: with a work of
    w each, the i-th of `workers` in parallel starts after w i / workers and is answered `spread` w later at
    the latest. A request that would miss even as the fastest variant, with a bound of `fastest_ms`, cannot be
    helped and holds nobody back. Infinite when nobody constrains.
    """
    work = math.inf
    for i, slack in enumerate(slacks_ms):
        share = slack / (spread + i / workers)
        if share < work and fastest_ms <= share * spread:
            work = share
    return work


class FairShares:
    """How much work each request may be for the workers to keep up with the arrivals.

    All have the same share of the workers' time, and what one leaves is for the next ones: variants come in
    steps and some requests have no time for a large one, so that only a mix fills the time that there is.
    """

    def __init__(self) -> None:
        self._kept_ms = 0.0

    def limit_ms(self, share_ms: float) -> float:
        """The most work for the next request, when each one's share is `share_ms` (infinite: unknown)."""
        return share_ms + self._kept_ms / _SPREAD_OVER

    def take(self, share_ms: float, work_ms: float) -> None:
        """A request of so much work starts."""
        if share_ms < math.inf:
            most = _MOST_KEPT * share_ms
            self._kept_ms = max(-most, min(most, self._kept_ms + share_ms - work_ms))


@dataclass(frozen=True, slots=True)
class Demand:
    """A waiting request: the time it has left, the bound of its fastest variant, and the work it will be."""

    slack_ms: float
    fastest_ms: float
    work_ms: float


def lateness_ms(
    job: Demand, free_ms: Sequence[float], ahead_ms: Iterable[float], behind: Iterable[Demand]
) -> float:
    """How late a request would be if it were taken, or how late it would make another; <= 0 is in time.

    `free_ms` is after how long each worker will be free, `ahead_ms` the work of the requests before it, and
    `behind` are those after it, both in the order in which they will run. Who would be late anyway does not
    count.
    """
    free = list(free_ms)
    heapq.heapify(free)
    for work in ahead_ms:
        heapq.heapreplace(free, free[0] + work)
    latest = free[0] + job.fastest_ms - job.slack_ms
    without = list(free)
    heapq.heapreplace(free, free[0] + job.work_ms)
    for other in behind:
        late = free[0] + other.fastest_ms - other.slack_ms
        if late > latest and without[0] + other.fastest_ms <= other.slack_ms:
            latest = late
        heapq.heapreplace(free, free[0] + other.work_ms)
        heapq.heapreplace(without, without[0] + other.work_ms)
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
