"""Which variant to run, and whether to take a request at all: pure, without clock or I/O.

Times in milliseconds. Costs are given best variant first, as a task's variants are ordered; each is what
the variant is expected to take for the picture at hand, at the confidence that the planner keeps.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.schemas import Decision

# Of the workers' time, what the present arrivals may ask for. Over one, since variants come in steps and the
# queue's own limit (`common_cost`) brings it down. Tuned with bench/simulator.py.
UTILISATION = 1.1


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen variant's place among the costs, and why."""

    index: int
    decision: Decision


def choose(
    costs_ms: Sequence[float],
    slack_ms: float,
    idle_slack_ms: float,
    allowance_ms: float = math.inf,
) -> Choice:
    """The most accurate variant that fits the time left and leaves enough to those behind.

    `slack_ms` is what is left now, `idle_slack_ms` what was left when the request could first have run:
    a device without load would have chosen by it. `allowance_ms` is the most that this request may take
    for the requests behind it (see `common_cost` and `steady_cost`). When nothing fits, the fastest
    variant is chosen.
    """
    fastest = min(range(len(costs_ms)), key=costs_ms.__getitem__)
    idle = _first_within(costs_ms, idle_slack_ms)
    if idle is None:
        return Choice(fastest, "infeasible")
    chosen = _first_within(costs_ms, min(slack_ms, allowance_ms))
    if chosen is None:
        chosen = fastest
    return Choice(chosen, "fits" if chosen == idle else "degraded")


def most_efficient(costs_ms: Sequence[float], top1: Sequence[float]) -> int:
    """The variant with the most accuracy for its time: when there is work for all time that there is, a
    smaller one would answer more requests and be right less often."""
    return max(range(len(costs_ms)), key=lambda i: top1[i] / costs_ms[i])


def common_cost(slacks_ms: Iterable[float], workers: int, fastest_ms: float) -> float:
    """The largest cost that all waiting requests could have and still be on time.

    `slacks_ms` are of the requests in the order in which they will run, the next one first: with a cost of
    c each, the i-th of `workers` in parallel ends after c (1 + i / workers). A request that would miss even
    at `fastest_ms` cannot be helped and holds nobody back. Infinite when nobody constrains.
    """
    cost = math.inf
    for i, slack in enumerate(slacks_ms):
        share = slack / (1 + i / workers)
        if fastest_ms <= share < cost:
            cost = share
    return cost


def steady_cost(arrivals_per_ms: float, workers: int) -> float:
    """The cost at which `workers` keep up with the present rate of arrivals. Infinite without arrivals."""
    return UTILISATION * workers / arrivals_per_ms if arrivals_per_ms > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Demand:
    """A waiting request: the time it has left, the least it can take, and the work it will be."""

    slack_ms: float
    fastest_ms: float
    work_ms: float


def lateness_ms(job: Demand, ahead_ms: float, behind: Iterable[Demand], workers: int) -> float:
    """How late a request would be if it were taken, or how late it would make another; <= 0 is in time.

    `behind` are in the order in which they will run, `ahead_ms` is the work that goes before in all. Who
    would be late anyway does not count.
    """
    latest = ahead_ms / workers + job.fastest_ms - job.slack_ms
    queued = ahead_ms + job.work_ms
    for other in behind:
        late = queued / workers + other.fastest_ms - other.slack_ms
        if late <= job.work_ms / workers:
            latest = max(latest, late)
        queued += other.work_ms
    return latest


def _first_within(costs_ms: Sequence[float], limit_ms: float) -> int | None:
    for i, cost in enumerate(costs_ms):
        if cost <= limit_ms:
            return i
    return None
