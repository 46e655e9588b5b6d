"""Jobs that wait, the earliest due first. Pure."""

import bisect
import itertools
import math
from collections.abc import Sequence

from service.jobs import Job


class DeadlineQueue:
    """Bounded by its length and by the bytes of its jobs; those due at the same time go in their order."""

    def __init__(self, max_length: int, max_bytes: int) -> None:
        self._max_length, self._max_bytes = max_length, max_bytes
        self._jobs: list[Job] = []
        self._keys: list[tuple[float, int]] = []  # of each job: when it is due, and which it was
        self._order = itertools.count()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> Sequence[Job]:
        """The next one first. To be read before the queue changes."""
        return self._jobs

    @property
    def first(self) -> Job | None:
        return self._jobs[0] if self._jobs else None

    def has_room(self, size_bytes: int) -> bool:
        """For one more of so many bytes. One that was taken may come back all the same."""
        return len(self._jobs) < self._max_length and self.size_bytes + size_bytes <= self._max_bytes

    def push(self, job: Job) -> None:
        key = job.due, next(self._order)
        at = bisect.bisect_left(self._keys, key)
        self._keys.insert(at, key)
        self._jobs.insert(at, job)
        self.size_bytes += job.size_bytes

    def pop(self) -> Job:
        return self._taken(0)

    def remove(self, job: Job) -> bool:
        """False when it does not wait."""
        for at in range(bisect.bisect_left(self._keys, (job.due, -1)), self.ahead(job.due)):
            if self._jobs[at] is job:
                self._taken(at)
                return True
        return False

    def ahead(self, due: float) -> int:
        """How many would run before one that is due then."""
        return bisect.bisect_right(self._keys, (due, math.inf))

    def _taken(self, at: int) -> Job:
        del self._keys[at]
        job = self._jobs.pop(at)
        self.size_bytes -= job.size_bytes
        return job
