"""What a client submits, and what a worker makes of it, with the time that each phase took."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from service import errors
from service.catalog import LoadedVariant
from service.clock import now_ms
from service.jobs import Assignment, Job
from service.schemas import Decision
from service.work import PairedWork, Ran, Work

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Submission(Generic[Result]):
    """Work, and when the client needs it. `arrival` is of `now_ms`; with `reject_late` what cannot be in
    time is refused."""

    work: Work[Result]
    arrival: float
    budget_ms: float | None
    reject_late: bool


@dataclass(slots=True, eq=False)
class Outcome(Generic[Result]):
    """What a worker made, and when.

    `predicted_ms` and `bound_ms` are what was expected in all when the way to answer was chosen, `queue_ms`
    the wait for a worker, and for a variant that was not in memory, `finished` when the worker was done.
    """

    ran: Ran[Result]
    task: str
    assignment: Assignment
    predicted_ms: float
    bound_ms: float
    queue_ms: float
    finished: float

    @property
    def result(self) -> Result:
        return self.ran.result

    @property
    def variant(self) -> LoadedVariant:
        return self.ran.variant

    @property
    def decode_ms(self) -> float:
        return self.ran.decode_ms

    @property
    def inference_ms(self) -> float:
        return self.ran.inference_ms

    @property
    def decision(self) -> Decision:
        return self.assignment.decision

    @property
    def threads(self) -> int:
        return self.assignment.threads


def serve(submissions: Sequence[Submission[Any]], taken: Assignment | Job) -> list[Outcome[Any] | Exception]:
    """What became of each part of what was taken."""
    if isinstance(taken, Job):
        return [errors.DeadlineExceeded("the deadline passed before a worker was free")]
    try:
        return _run(submissions, taken)
    except Exception as error:
        return [error] * len(submissions)


def _run(submissions: Sequence[Submission[Any]], assignment: Assignment) -> list[Outcome[Any] | Exception]:
    started = now_ms()
    first = submissions[0]
    if assignment.second is None:
        return [_outcome(first.work.run(assignment), first, assignment, started, now_ms())]
    made = cast(PairedWork[Any], first.work).run_with(submissions[1].work, assignment)
    finished = now_ms()
    return [
        ran if isinstance(ran, Exception) else _outcome(ran, submission, part, started, finished)
        for ran, submission, part in zip(made, submissions, assignment.parts, strict=True)
    ]


def _outcome(
    ran: Ran[Result], submission: Submission[Result], assignment: Assignment, started: float, finished: float
) -> Outcome[Result]:
    elapsed = assignment.started - submission.arrival + assignment.job.held_up_ms
    return Outcome(
        ran=ran,
        task=submission.work.task,
        assignment=assignment,
        predicted_ms=elapsed + assignment.median_ms,
        bound_ms=elapsed + assignment.bound_ms,
        queue_ms=started - assignment.job.submitted + ran.load_ms,
        finished=finished,
    )
