"""A request as the dispatcher sees it, and what may become of it.

Times are milliseconds of the dispatcher's clock.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from service.latency import Expected
from service.schemas import Decision


@dataclass(slots=True, eq=False)
class Job:
    """One request. `expected` has what each plan is expected to take, the most accurate variant first and
    of each the plan with one thread first, and `top1` how accurate each is.

    `deadline` is None without a budget. `pinned` is the place of the only variant's plan with one thread.
    `payload` is the caller's own.
    """

    expected: list[Expected]
    top1: Sequence[float]
    arrival: float
    deadline: float | None
    size_bytes: int = 0
    pinned: int | None = None
    reject_late: bool = False
    payload: Any = None
    submitted: float = 0.0
    alone: bool = False  # when it was admitted, nobody else was there
    in_line: bool = False  # when it was admitted, others were to run before a worker would be free
    tight: bool = False  # and it had no time for its most efficient plan
    fastest: int = 0
    frontier: Sequence[int] = ()
    # What it will be under load, and the bound of its fastest plan, as they were expected when it came or,
    # where something has to be brought into memory for it, when they were last asked for.
    work_ms: float = 0.0
    least_ms: float = 0.0
    loads: bool = False
    due: float = 0.0
    late: bool = False
    held_up_ms: float = 0.0  # by one in a hurry that was run ahead of it after it had started

    @property
    def allowed(self) -> list[Expected]:
        """The plans that it may be answered by."""
        return self.expected if self.pinned is None else [self.expected[self.pinned]]

    def slack_ms(self, now: float) -> float:
        """What is left of its time; infinite without a budget."""
        return math.inf if self.deadline is None else self.deadline - now


@dataclass(slots=True, eq=False)
class Assignment:
    """A job that a worker shall run now by plan `index`.

    `median_ms` and `bound_ms` are what is expected from now to the start of the answer: half, and almost
    all, take no longer. `load_ms` of it goes into bringing the plan into memory. `ahead_of` is who runs
    already and is held up for it; None where a worker was free. `second` is another job that the same run
    answers, by the same plan, and of which the same is expected.
    """

    job: Job
    index: int
    decision: Decision
    started: float
    median_ms: float
    bound_ms: float
    load_ms: float = 0.0
    ahead_of: Job | None = None
    second: "Assignment | None" = None

    @property
    def expected(self) -> Expected:
        """What the profile expects of the run."""
        own = self.job.expected[self.index]
        return own if self.second is None else own.with_second(self.second.expected)

    @property
    def parts(self) -> "list[Assignment]":
        """This one, and the second."""
        return [self] if self.second is None else [self, self.second]

    @property
    def threads(self) -> int:
        return self.expected.threads

    @property
    def slowdown(self) -> float:
        """How many times what the profile expects almost all such requests take, once the plan is in memory.
        What was thought impossible to load tells nothing: 1."""
        if self.load_ms == math.inf:
            return 1.0
        return (self.bound_ms - self.load_ms) / self.expected.service_ms


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job is not taken, and after how long it would be: no room in the queue, too little time, or too
    much work while others are refused."""

    reason: Literal["full", "late", "costly"]
    retry_after_ms: float
