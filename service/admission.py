"""Whether a request is taken: limits, what its budget allows, and what the others lose by it. Pure.

Times are milliseconds of the dispatcher's clock.
"""

import math
from collections.abc import Sequence

from service import planner
from service.contention import Contention
from service.deadline_queue import DeadlineQueue
from service.jobs import Job, Refusal
from service.latency import ANSWER_MS, LatencyEstimates, fastest
from service.pessimism import Pessimism
from service.running import Running

# Load that has lasted so long, and so many times as long as a request has time, will last for that time.
_LASTING_MS, _LASTING = 1_000.0, 2.0
# Estimates are believed for so long after a run, to refuse what an idle worker could try.
_BELIEVED_MS = 1_000.0


class Admission:
    """Of one dispatcher, which tells it who comes, what has run, and whose turn it is."""

    def __init__(
        self, estimates: LatencyEstimates, queue: DeadlineQueue, running: Running, contention: Contention
    ) -> None:
        self._estimates, self._queue, self._running = estimates, queue, running
        self._contention = contention
        # Of those that have time for their most efficient plan, and of the others: these are in time by a
        # hair, and what breaks their promises shall not keep out those that have time.
        self._pessimism, self._pessimism_if_tight = Pessimism(), Pessimism()
        self._ran_last = -math.inf
        self._crowded_since = 0.0  # whoever has come since then has found others waiting
        self._loading = False  # some wait, or have waited, for what has to be brought into memory

    @property
    def pessimism(self) -> float:
        """How many times what is expected those that wait are reckoned to take, for one that has time."""
        return self._pessimism.factor

    @property
    def at_once(self) -> bool:
        """With an idle worker for each that waits and one more, they are about to be taken: nobody is held
        up."""
        return len(self._queue) + self._running.busy < self._running.workers

    def believed(self, now: float) -> bool:
        """Were estimates believed for ever, nothing might run any more that could correct them."""
        return now - self._ran_last <= _BELIEVED_MS

    def came(self, job: Job, now: float) -> None:
        """One has come that is not in the queue yet."""
        self._loading |= job.loads
        job.in_line = not self.at_once
        if not self._queue:
            self._crowded_since = now

    def ran(self, now: float) -> None:
        """A worker has run something that taught the estimates."""
        self._ran_last = now

    def turn(self, job: Job, *, kept: bool) -> None:
        """The turn has come of a job that was admitted by what waited before it, and it has enough time left
        or not."""
        if job.reject_late and job.in_line:
            (self._pessimism_if_tight if job.tight else self._pessimism).observe(kept=kept)

    def idle_fastest_ms(self, job: Job, now: float) -> float:
        """What the job takes at least on an idle device: by the profile, whatever load has taught since, and
        also, where a worker is idle now, by the latest runs."""
        allowed = job.allowed
        least = min(expected.service_ms + expected.load_ms for expected in allowed) + ANSWER_MS
        if self.at_once and self.believed(now):
            return max(least, self._estimates.median_ms(allowed[fastest(allowed)]))
        return least

    def refusal(self, job: Job, now: float) -> Refusal | None:
        """Why the job is not taken, if it is not: a limit is reached, or it insists on its deadline
        (`reject_late`) and the queue would make it, or others that were admitted, miss; or load has lasted,
        and it would take more time than it is worth."""
        if not self._queue.has_room(job.size_bytes):
            # By its size alone it may be refused by an empty queue: then as long as it takes itself.
            return Refusal("full", self._backlog_ms(now) or job.work_ms)
        if not job.reject_late or job.deadline is None:
            return None
        late_ms = -math.inf
        if job.in_line:
            late_ms = self._lateness_ms(job, now)
            if late_ms <= 0 and self._costly(job, now):
                return Refusal("costly", self._backlog_ms(now))
        elif self.believed(now):
            late_ms = self._estimates.median_ms(job.expected[job.fastest]) - job.slack_ms(now)
        return Refusal("late", late_ms) if late_ms > 0 else None

    def _costly(self, job: Job, now: float) -> bool:
        """Whether others, some of whom are refused, would gain more by the time that it takes; not in a burst
        that may be over before its own time is, and not where somebody else has chosen the variant."""
        lasting = now - self._crowded_since >= max(_LASTING_MS, _LASTING * job.slack_ms(now))
        return lasting and job.pinned is None and self._contention.outbid(job, now)

    def _backlog_ms(self, now: float) -> float:
        """How long the workers need for all that waits."""
        work = sum(job.work_ms for job in self._waiting())
        return (work + sum(self._running.free_ms(now))) / self._running.workers

    def _lateness_ms(self, job: Job, now: float) -> float:
        """How late taking the job would make it, or those behind it (see `planner.lateness_ms`)."""
        waiting, at = self._waiting(), self._queue.ahead(job.due)
        free_at = [now + ms for ms in self._running.free_ms(now)]
        efficient_ms, least_ms = self._contention.efficient_ms(job), self._contention.least_ms(job, now)

        def lateness_ms(least_ms: float, pessimism: Pessimism) -> float:
            # Reckoned with more than what they are expected to be, to see who could still be in time.
            return planner.lateness_ms(job, least_ms, free_at, waiting[:at], waiting[at:], pessimism.factor)

        late_ms = lateness_ms(efficient_ms, self._pessimism)
        job.tight = late_ms > 0 and least_ms < efficient_ms
        return lateness_ms(least_ms, self._pessimism_if_tight) if job.tight else late_ms

    def _waiting(self) -> Sequence[Job]:
        """The queue, reckoned anew where what is in memory changes."""
        waiting = self._queue.jobs
        if self._loading:
            for job in waiting:
                if job.loads:
                    self._contention.reckon(job)
        return waiting
