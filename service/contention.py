"""What requests cost each other, and how much each may take for the sake of the others. Pure.

It follows from who waits and who runs, from how fast the latest came, and from what was lost of late; how is
in `sharing` and `planner`. Times in milliseconds.
"""

import functools
import math
from collections.abc import Sequence

from service import planner, sharing
from service.deadline_queue import DeadlineQueue
from service.jobs import Job
from service.latency import Costs, LatencyEstimates
from service.running import Running

# How far the choice looks down the queue.
_LOOK_AHEAD = 128
# Where there is work for all time that there is, a smaller variant makes room for less than its inference
# says: reading and answering take 0.8 ms of a core whatever the variant, and what is saved in a burst is
# often left over when it ends. With 2.8 the best static variant was beaten by a point more than with 1.4
# under the Azure trace and by half a point at most other loads of bench.slo; with more nothing changes.
_EACH_MS = 2.8
# Of what those in a hurry lose by finding no worker free, so much is left where they may run ahead of others:
# one at a time can, with a part of a core, so that it has to be content with less.
_STILL_LOST = 0.3
_RELAXED = 64  # so many in a row could wait, until nobody in a hurry is expected
_NOTHING = 1e-6  # of accuracy: sums of what came and went are not quite 0
_STEP_MS = 1 / 64  # to which plans are ranked, so that pictures of one camera are ranked once


@functools.lru_cache(maxsize=1024)
def _ranking(steps: tuple[int | None, ...], top1: tuple[float, ...]) -> tuple[int, Sequence[int]]:
    """The fastest plan, and the efficient frontier, by how many `_STEP_MS` each takes; None: all workers."""
    works = [math.inf if step is None else step * _STEP_MS + _EACH_MS for step in steps]
    return works.index(min(works)), planner.frontier(works, top1)


class Contention:
    """Of one dispatcher: it is told who comes, who starts and who loses. With `preempts`, one in a hurry may
    run ahead of what has started."""

    def __init__(
        self, estimates: LatencyEstimates, queue: DeadlineQueue, running: Running, *, preempts: bool
    ) -> None:
        self._estimates, self._queue, self._running = estimates, queue, running
        self._still_lost = _STILL_LOST if preempts else 1.0
        self._arrivals = sharing.Arrivals(running.workers)
        self._shares = sharing.FairShares()
        self._price = sharing.WorkPrice(running.workers)
        self._relaxed = _RELAXED  # so many in a row could have waited for two runs

    def rank(self, job: Job) -> None:
        """Finds the job's fastest plan and its efficient frontier, both by the profile: what was learned of
        two plans at different times may change their order. And what they take."""
        if job.pinned is not None:
            job.fastest, job.frontier = job.pinned, (job.pinned,)
        else:
            steps = [int(e.service_ms / _STEP_MS) if e.threads == 1 else None for e in job.expected]
            job.fastest, job.frontier = _ranking(tuple(steps), tuple(job.top1))
        self.reckon(job)

    def reckon(self, job: Job) -> None:
        """What the job takes by the latest runs."""
        efficient, least = job.expected[job.frontier[0]], job.expected[job.fastest]
        job.work_ms, job.least_ms = self._estimates.work_ms(efficient), self._estimates.bound_ms(least)
        job.loads = bool(efficient.needs or least.needs)

    def came(self, job: Job, now: float) -> bool:
        """Whether an idle device could have answered it: else it asks for no share of the workers, and is no
        loss."""
        chances = self._chances(job, now)
        if chances:
            longest_ms = self._estimates.bound_ms(job.expected[0])
            self._arrivals.came(now, chances, longest_ms)
            self._relaxed = self._relaxed + 1 if chances[-1].wait_ms >= 2 * longest_ms else 0
        return len(chances) > 0

    def started(self, share_ms: float, work_ms: float, now: float) -> None:
        """A request of so much work starts, whose share was `share_ms`."""
        if work_ms == math.inf:
            return  # it cannot be loaded, and will fail
        self._shares.take(share_ms, work_ms)
        self._price.worked(work_ms, now)

    def refused(self, job: Job, now: float) -> None:
        """It loses all, and what it leaves of its share is for others."""
        self.lost(job, job.top1[job.frontier[0]], now)
        self._shares.take(self.share_ms(now), 0.0)

    def share_ms(self, now: float) -> float:
        """The work at which the workers keep up with the latest arrivals; infinite before there are many."""
        return self._arrivals.share_ms(now)

    def efficient_ms(self, job: Job) -> float:
        """The bound of its most efficient plan."""
        return self._estimates.bound_ms(job.expected[job.frontier[0]])

    def least_ms(self, job: Job, now: float) -> float:
        """The bound of the least plan that the job is worth taking by: not the fastest where that gains less
        than its time would gain others."""
        efficient, least = job.frontier[0], job.fastest
        worth = efficient if self._outbid(job, least, now) else least
        return self._estimates.bound_ms(job.expected[worth])

    def outbid(self, job: Job, now: float) -> bool:
        """Whether its time would gain others more than the job gains by it, whatever of the frontier it is
        answered by."""
        return self._outbid(job, job.frontier[0], now)

    def _outbid(self, job: Job, plan: int, now: float) -> bool:
        work = self._estimates.work_ms(job.expected[plan]) + _EACH_MS
        return job.top1[plan] < self._price.per_ms(now) * work

    def _chances(self, job: Job, now: float) -> list[sharing.Chance]:
        """What the job loses by waiting: at first what a variant of the frontier gains over the fastest one,
        and then all. Nothing where not even the fastest is in time."""
        slack, first, least = job.slack_ms(now), job.frontier[0], job.fastest
        spare = slack - job.least_ms  # as it was reckoned a moment ago
        if spare < 0:
            return []
        found = [sharing.Chance(spare, job.top1[least])]
        if first != least:
            spare = max(0.0, slack - self._estimates.bound_ms(job.expected[first]))
            found.append(sharing.Chance(spare, job.top1[first] - job.top1[least]))
        return found

    def allowance_ms(self, job: Job, costs: Costs, now: float) -> float:
        """The most work that the job at hand may be for the sake of those behind it and those to come."""
        if not self._queue and not self._running:
            return math.inf  # nobody to step aside for, whatever came before
        share, spread = self._arrivals.share_ms(now), self._estimates.spread
        steady = self._shares.limit_ms(share)
        first, *larger = job.frontier
        if all(costs.works_ms[i] > steady for i in larger):
            return costs.works_ms[first]  # no other is allowed, whoever waits
        ends = now + self._estimates.answer_bound_ms
        slacks = [job.slack_ms(ends)]
        slacks += [
            other.deadline - ends
            for other in self._queue.jobs[:_LOOK_AHEAD]
            if other.deadline is not None and not other.late
        ]
        fastest_ms = costs.bounds_ms[job.fastest] - self._estimates.answer_bound_ms
        common = planner.common_work(slacks, self._running.workers, spread, fastest_ms, share)
        return planner.allowance_ms(costs.works_ms, job.frontier, min(common, steady))

    def harmless(self, busy_ms: float) -> bool:
        """Whether, by the latest arrivals, nobody loses who comes while all workers are busy for so long."""
        return self._arrivals.loss(busy_ms) < _NOTHING

    @property
    def relaxed(self) -> bool:
        """Whether, by the latest arrivals, nobody is in such a hurry as to lose by waiting for two runs."""
        return self._relaxed >= _RELAXED

    def lost(self, job: Job, accuracy: float, now: float) -> None:
        """Load cost the job so much accuracy. What it loses without any is the machine's doing: to leave more
        time to others would not bring it back."""
        if accuracy > 0 and not job.alone:
            efficient = job.frontier[0]
            most = job.top1[efficient] / (self._estimates.work_ms(job.expected[efficient]) + _EACH_MS)
            self._price.lost(accuracy, most, now)

    def prices(self, costs: Costs, *, alone: bool, now: float) -> list[float] | None:
        """What each plan costs the others, in accuracy: those that there are, for the work, and those in a
        hurry that may come while no worker is free. None where nobody pays; only where the job is `alone` may
        a plan keep all workers."""
        others = sorted(self._running.free_ms(now))[1:]  # one is the worker that is about to run it
        until_next = others[0] if others else math.inf
        price = self._price.per_ms(now)
        if price == 0 and until_next == 0 and not (alone and math.inf in costs.works_ms):
            return None
        loss = self._arrivals.loss
        loss_until_next = loss(until_next)  # which most plans take longer than
        prices = []
        for work, bound in zip(costs.works_ms, costs.bounds_ms, strict=True):
            if work == math.inf:
                paid, blocked = price * self._running.workers * bound, loss(bound) if alone else 0.0
            elif work < until_next:
                paid, blocked = price * work, loss(work)
            else:
                paid, blocked = price * work, loss_until_next
            prices.append(paid + self._still_lost * blocked)
        return prices
