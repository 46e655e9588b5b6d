"""Which variant to run: pure, without clock or I/O. Times in milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.catalog import LoadedVariant
from service.schemas import Decision


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant with what it is worth and what it is expected to take for the picture at hand."""

    variant: LoadedVariant
    top1: float
    cost_ms: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen candidate, and why."""

    candidate: Candidate
    decision: Decision


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no other beats in both accuracy and cost: falling in both."""
    best: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.top1, c.cost_ms)):
        if not best or candidate.cost_ms < best[-1].cost_ms:
            best.append(candidate)
    return best


def plan(candidates: Sequence[Candidate], slack_ms: float | None, idle_slack_ms: float | None) -> Plan:
    """The most accurate candidate that fits `slack_ms`, the time that is left.

    `idle_slack_ms` is the time that was left when the request could first have run: a device without
    load would have chosen by it. None for both means that there is no budget. When nothing fits, the
    fastest candidate is the plan. Raises ValueError without candidates.
    """
    choices = frontier(candidates)
    if not choices:
        raise ValueError("there is no candidate to choose from")
    if slack_ms is None or idle_slack_ms is None:
        return Plan(choices[0], "unbounded")
    chosen = _first_that_fits(choices, slack_ms)
    idle = _first_that_fits(choices, idle_slack_ms)
    if idle is None:
        return Plan(choices[-1], "infeasible")
    if chosen is None:
        return Plan(choices[-1], "degraded")
    return Plan(chosen, "fits" if chosen is idle else "degraded")


def _first_that_fits(choices: Sequence[Candidate], slack_ms: float) -> Candidate | None:
    return next((c for c in choices if c.cost_ms <= slack_ms), None)
