"""Which variant to run, and whether to take a request at all: pure, without clock or I/O.

Times in milliseconds. Costs are given best variant first, as a task's variants are ordered; each is what
the variant is expected to take for the picture at hand, at the confidence that the planner keeps.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.schemas import Decision

# Of the workers' time, what steady arrivals may fill: the rest absorbs their unevenness.
UTILISATION = 0.9


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
    for the requests behind it (see `common_cost` and `steady_cost`); the fastest variant is always
    allowed. When nothing fits `slack_ms`, the fastest variant is chosen.
    """
    fastest = min(range(len(costs_ms)), key=costs_ms.__getitem__)
    idle = _first_within(costs_ms, idle_slack_ms)
    if idle is None:
        return Choice(fastest, "infeasible")
    chosen = _first_within(costs_ms, min(slack_ms, allowance_ms))
    if chosen is None:
        chosen = fastest
    return Choice(chosen, "fits" if chosen == idle else "degraded")


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


def lateness_ms(
    job: tuple[float, float],
    ahead_ms: float,
    behind: Iterable[tuple[float, float]],
    workers: int,
) -> float:
    """How late a request would be if it were taken, or how late it would make another; <= 0 is in time.

    `job` and each of those `behind`, in the order in which they will run, are (slack, cost of the fastest
    variant); `ahead_ms` is the work that goes before in all. Who would be late anyway does not count.
    """
    slack, cost = job
    latest = ahead_ms / workers + cost - slack
    queued = ahead_ms + cost
    for other_slack, other_cost in behind:
        late = queued / workers + other_cost - other_slack
        if late - cost / workers <= 0:
            latest = max(latest, late)
        queued += other_cost
    return latest


def _first_within(costs_ms: Sequence[float], limit_ms: float) -> int | None:
    for i, cost in enumerate(costs_ms):
        if cost <= limit_ms:
            return i
    return None
