"""The queue, and the choice of what runs next: no clock, no threads, no I/O.

The scheduler drives it with real time under its lock, the simulator with virtual time. Times are
milliseconds of one monotonic clock, whichever the caller has.
"""

import functools
import math
from collections.abc import Sequence

from service import planner
from service.admission import Admission
from service.contention import Contention
from service.deadline_queue import DeadlineQueue
from service.jobs import Assignment, Job, Refusal
from service.latency import Expected, LatencyEstimates
from service.pairing import Pairing
from service.running import Running
from service.schemas import Decision

# A request without a budget is due as if it had this one: after those in a hurry, but not for ever.
UNBOUNDED_PATIENCE_MS = 10_000.0
# One that has missed its deadline, and shall be answered all the same, waits for the others this long.
LATE_PATIENCE_MS = 1_000.0
# There is room where all requests may be so many times the work of the most accurate variant.
_ROOM = 1.2
# Within so many times its bound a variant is surely in time.
_SURELY = 1.5
# So many requests in a row found nobody else there, for one without a budget to take all workers.
_LONELY = 8
# One in so many of them is run the other way, with one thread or with all, to know which is faster now.
_TRY = 16


class Dispatcher:
    """Jobs that wait, earliest due first, and what the workers are at.

    With `preempts` there is a thread more than workers, which the system prefers to them: one in a hurry may
    run on it ahead of what has started and has time, when all workers are busy.
    """

    def __init__(
        self,
        estimates: LatencyEstimates,
        workers: int,
        *,
        max_length: int,
        max_bytes: int,
        preempts: bool = False,
    ) -> None:
        self.estimates = estimates
        self.workers = workers
        self._preempts = preempts
        self._queue = DeadlineQueue(max_length, max_bytes)
        self._running = Running(workers)
        self._hurries = False  # what runs ahead is about to be taken
        self._lonely = 0  # so many requests in a row have found nobody else there
        self._could_take_all = 0  # so many could have had the threads of all workers
        self._pairing = Pairing(estimates)
        self._contention = Contention(estimates, self._queue, self._running, preempts=preempts)
        self._admission = Admission(estimates, self._queue, self._running, self._contention)

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        return self._queue.size_bytes

    @property
    def running(self) -> int:
        """Workers that are at something."""
        return len(self._running)

    @property
    def pessimism(self) -> float:
        """How many times what is expected those that wait are reckoned to take."""
        return self._admission.pessimism

    def idle_fastest_ms(self, job: Job, now: float) -> float:
        """What the job takes at least on an idle device."""
        return self._admission.idle_fastest_ms(job, now)

    def admit(self, job: Job, now: float) -> Refusal | None:
        """Queues the job, or has it run at once (see `next_ahead`), or tells why not: a limit is reached, or
        the job insists on its deadline (`reject_late`) and the queue would make it, or others that were
        admitted, miss; or load has lasted, and it would take more time than it is worth."""
        self._contention.rank(job)
        job.submitted = now
        job.alone = not self._queue and not self._running
        self._lonely = self._lonely + 1 if job.alone else 0
        self._admission.came(job, now)
        job.due = now + UNBOUNDED_PATIENCE_MS if job.deadline is None else job.deadline
        hopeful = self._contention.came(job, now)
        if hopeful and self._preempt(job, now):
            return None
        refusal = self._admission.refusal(job, now)
        if refusal is None:
            self._queue.push(job)
        elif hopeful:
            self._contention.refused(job, now)
        return refusal

    @property
    def _others_hurry(self) -> bool:
        """Whether one waits that can lose by waiting on."""
        first = self._queue.first
        return first is not None and first.deadline is not None and not first.late

    def next(self, now: float) -> Assignment | Job | None:
        """What a free worker shall do: an assignment, or a job that was too late and is given back
        (`reject_late`), or nothing."""
        forlorn: list[Job] = []
        found = self._next(now, forlorn)
        for job in forlorn:
            self._queue.push(job)
        return found

    def _next(self, now: float, forlorn: list[Job]) -> Assignment | Job | None:
        """Puts those aside that are more likely late than not, while others wait who could use the worker."""
        while self._queue and not self._running.exclusive:
            job = self._queue.pop()
            if job.deadline is None or job.late:
                return self._assign_patient(job, now)
            costs = self.estimates.costs(job.expected)
            slack = job.deadline - now
            if costs.bounds_ms[job.fastest] > slack:
                if job.reject_late:
                    if slack <= 0:
                        self._admission.turn(job, kept=False)
                        self._contention.lost(job, job.top1[job.fastest], now)
                        return job
                    likely_late = costs.medians_ms[job.fastest] > slack
                    if likely_late and self._others_hurry and self._admission.believed(now):
                        forlorn.append(job)
                        continue
                elif self._queue:
                    self._contention.lost(job, job.top1[job.fastest], now)
                    # It cannot be on time any more, while others can: they go first.
                    job.late = True
                    job.due = job.deadline + LATE_PATIENCE_MS
                    self._queue.push(job)
                    continue
            self._admission.turn(job, kept=costs.bounds_ms[job.fastest] <= slack)
            if job.pinned is not None:
                return self._assign_patient(job, now)
            allowance = self._contention.allowance_ms(job, costs, now)
            idle_slack = job.deadline - job.submitted
            prices = self._contention.prices(costs, alone=allowance == math.inf, now=now)
            choice = planner.choose(costs, job.top1, job.fastest, slack, idle_slack, allowance, prices)
            self._contention.lost(job, choice.lost, now)
            return self._assign(job, choice.index, choice.decision, now)
        return None

    @property
    def hurries(self) -> bool:
        """There is something to run ahead of what the workers are at."""
        return self._hurries

    def next_ahead(self) -> Assignment | None:
        """What the thread that goes before the workers shall do: what was just admitted and cannot wait."""
        if not self._hurries:
            return None
        self._hurries = False
        return self._running.ahead

    def finish(
        self,
        done: Assignment,
        now: float,
        inference_ms: float | None,
        expected: Expected | None = None,
        load_ms: float = 0.0,
    ) -> None:
        """The worker is free again; `inference_ms` is None when the job failed and teaches nothing.

        `expected` is what the profile expects of what there was to do, where that was not known before, and
        `load_ms` the time that went into loading, which teaches nothing about the rest. Nor does a run that
        was held up.
        """
        service_ms = now - done.started - load_ms
        self._running.end(done)
        if inference_ms is None:
            return
        if done.ahead_of is not None:
            self.estimates.observe_ahead(expected or done.expected, service_ms)
        elif not done.job.held_up_ms:
            self._admission.ran(now)  # what teaches nothing is no reason to believe estimates longer
            self.estimates.observe(expected or done.expected, service_ms, inference_ms)

    def answered(self, delay_ms: float) -> None:
        """An answer starts to leave, so long after its worker was done."""
        self.estimates.observe_answer(delay_ms)

    def cancel(self, job: Job) -> bool:
        """Removes a job that waits; False when it runs or is done."""
        return self._queue.remove(job)

    def _assign_patient(self, job: Job, now: float) -> Assignment:
        """A pinned variant, the most accurate one without a budget, the fastest one when late."""
        decision: Decision
        if job.deadline is None:
            index, decision = _without_budget(job)
            index = self._on_all_workers(job, index) or index
            return self._assign(job, index, decision, now, self._second(job.expected[index], now))
        if job.pinned is not None:
            index, decision = job.pinned, "pinned"
        else:
            index = job.fastest
            idle = self.estimates.bound_ms(job.expected[index]) <= job.deadline - job.submitted
            decision = "degraded" if idle else "infeasible"
        return self._assign(job, index, decision, now)

    def _on_all_workers(self, job: Job, index: int) -> int | None:
        """The plan of the same variant with the threads of all workers, where there is one that is faster,
        and nobody who would have to wait for them: others come one at a time, and none of them in a hurry."""
        several = index + 1
        if self._lonely < _LONELY or self._queue or self._running or several >= len(job.expected):
            return None
        expected = job.expected[several]
        if expected.threads == 1 or not self._contention.harmless(self.estimates.bound_ms(expected)):
            return None
        self._could_take_all += 1
        faster = self.estimates.work_ms(expected) < self.estimates.work_ms(job.expected[index])
        return several if faster != (self._could_take_all % _TRY == 0) else None

    def _second(self, expected: Expected, now: float) -> Assignment | None:
        """The next in the queue, taken from there, where it has no budget either and wants the same plan: one
        run answers both. Not where another worker is free for it, or somebody in a hurry might come."""
        other = self._queue.first
        if other is None or other.deadline is not None or len(self._running) + 1 < self.workers:
            return None
        index, decision = _without_budget(other)
        theirs = other.expected[index]
        if not self._contention.relaxed or not self._pairing.shall_pair(expected, theirs):
            return None
        self._queue.pop()
        _, median, bound = self.estimates.cost(expected.with_second(theirs))
        return Assignment(other, index, decision, now, median, bound)

    def _assign(
        self, job: Job, index: int, decision: Decision, now: float, second: Assignment | None = None
    ) -> Assignment:
        estimates = self.estimates
        expected = job.expected[index].loaded
        load_ms = job.expected[index].load_ms  # once: while others load and drop, it changes
        if second is not None:
            expected = expected.with_second(second.expected)
        run, median, bound = estimates.cost(expected)
        work = load_ms + run
        share = self._contention.share_ms(now)
        # Where there is room for the best, what is promised to those who come meanwhile is surer.
        roomy = share >= _ROOM * estimates.work_ms(job.expected[0])
        assignment = Assignment(
            job, index, decision, now, load_ms + median, load_ms + bound, load_ms, second=second
        )
        self._running.start(assignment, now + work + (bound - median if roomy else 0.0))
        if second is None:
            self._contention.started(share, work * expected.threads, now)
        else:  # each half of it
            for _ in assignment.parts:
                self._contention.started(share, work / 2, now)
        return assignment

    def _preempt(self, job: Job, now: float) -> bool:
        """Whether the job shall run ahead of one that has started and has the most time to spare: where it
        would lose much by waiting, and nobody waits who is due before it."""
        first = self._queue.first
        if not self._preempts or self._running.ahead is not None or job.deadline is None:
            return False
        if len(self._running) < self.workers or (first is not None and first.due < job.due):
            return False
        allowed = job.allowed
        slack, wait = job.slack_ms(now), min(self._running.free_ms(now))
        if wait + _SURELY * self.estimates.bound_ms(allowed[0]) <= slack:
            return False  # it has time for the best
        other = self._running.most_spare()
        if other.spare_ms <= 0:
            return False
        costs = self.estimates.costs(allowed)
        ahead = self.estimates.costs_ahead(costs)
        top1 = job.top1 if job.pinned is None else [job.top1[job.pinned]]
        choose = functools.partial(planner.choose_ahead, ahead, costs, top1, slack, wait, other.spare_ms)
        if choose() is None:  # before the prices, which take more time to tell
            return False
        chosen = choose(self._contention.prices(costs, alone=False, now=now))
        if chosen is None:
            return False
        decision: Decision = "pinned"
        if job.pinned is None:
            idle = planner.choose(costs, top1, job.fastest, slack, slack).index
            decision = "fits" if chosen == idle else "degraded"
            self._contention.lost(job, top1[idle] - top1[chosen], now)
        index = chosen if job.pinned is None else job.pinned
        work = costs.works_ms[chosen]
        load_ms = work - self.estimates.work_ms(job.expected[index].loaded)  # not read again: it changes
        other.hold_up(ahead.holds_ms[chosen])
        self._contention.started(self._contention.share_ms(now), work, now)
        self._running.ahead = Assignment(
            job, index, decision, now,
            median_ms=ahead.medians_ms[chosen], bound_ms=ahead.bounds_ms[chosen],
            load_ms=load_ms, ahead_of=other.assignment.job,
        )  # fmt: skip
        self._hurries = True
        return True


def _without_budget(job: Job) -> tuple[int, Decision]:
    """The place of the plan with one thread that answers it, and why."""
    if job.pinned is not None:
        return job.pinned, "pinned"
    return _best_that_loads(job.expected), "unbounded"


def _best_that_loads(expected: Sequence[Expected]) -> int:
    """The first plan, but for one that could not be brought into memory any more."""
    return next((i for i, plan in enumerate(expected) if plan.load_ms < math.inf), 0)
