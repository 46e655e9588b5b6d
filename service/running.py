"""What the workers are at, and what runs ahead of it. Pure; times in milliseconds."""

import math
from dataclasses import dataclass

from service.jobs import Assignment


@dataclass(slots=True)
class Run:
    """What a worker is at, and when it is expected to be free again."""

    assignment: Assignment
    ends: float

    @property
    def spare_ms(self) -> float:
        """For how long it may be held up and is still on time; once is enough."""
        job = self.assignment.job
        if job.held_up_ms:
            return -math.inf
        if job.deadline is None or job.late:
            return math.inf
        return job.deadline - self.assignment.started - self.assignment.bound_ms

    def hold_up(self, hold_ms: float) -> None:
        for part in self.assignment.parts:
            part.job.held_up_ms = hold_ms
        self.ends += hold_ms


class Running:
    """Of so many workers. One picture may keep all of them; and one may run ahead while all are busy."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._runs: dict[int, Run] = {}  # by the assignment's identity
        self.exclusive = False  # what runs keeps all workers
        self.ahead: Assignment | None = None

    def __len__(self) -> int:
        """Workers that are at something."""
        return len(self._runs)

    @property
    def busy(self) -> int:
        """Workers that are at something, or kept free for the threads of what runs."""
        return self.workers if self.exclusive else len(self._runs)

    def start(self, assignment: Assignment, ends: float) -> None:
        self._runs[id(assignment)] = Run(assignment, ends)
        self.exclusive = assignment.threads > 1

    def end(self, assignment: Assignment) -> None:
        if assignment is self.ahead:
            self.ahead = None
            return
        self._runs.pop(id(assignment), None)
        self.exclusive = False  # what keeps all workers runs alone

    def free_ms(self, now: float) -> list[float]:
        """After how long each worker is expected to be free."""
        busy = [max(0.0, run.ends - now) for run in self._runs.values()]
        return busy * self.workers if self.exclusive else busy + [0.0] * (self.workers - len(busy))

    def most_spare(self) -> Run:
        """The one that can be held up for longest. Raises ValueError when nothing runs."""
        return max(self._runs.values(), key=lambda run: run.spare_ms)
