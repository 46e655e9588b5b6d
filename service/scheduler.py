"""The threads that serve: each takes what the dispatcher deems next, decodes and runs it.

Everything that decides is in `dispatch.py`; here are the lock, the clock and the hand-over to the event
loop. Decoding and inference run on one thread, off the loop, with the lock released.
"""

import asyncio
import contextlib
import logging
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model_store.device import lower_priority, on_cpu, stay_on
from model_store.profile import Quantiles
from service import errors, planner
from service.catalog import LoadedDetector, LoadedVariant
from service.clock import now_ms
from service.dispatch import UNBOUNDED_PATIENCE_MS, Dispatcher
from service.jobs import Assignment, Job, Refusal
from service.latency import fastest
from service.metrics import Metrics
from service.outcomes import Outcome, Result, Submission, serve
from service.turnstile import TooFarBehind, Turnstile
from service.work import Work

log = logging.getLogger(__name__)

WORKER_NICENESS = 5
_LONGEST_RETRY_MS = 600_000.0
_WHERE_IT_IS = contextlib.nullcontext()
_WHY = {
    "full": "the queue is full",
    "late": "the budget cannot be met with the work that waits",
    "costly": "many wait, and others gain more by the time that this picture takes; a smaller one takes less",
}


@dataclass(slots=True, eq=False)
class _Ticket:
    """A submission on its way, and who waits for its outcome."""

    submission: Submission[Any]
    result: "asyncio.Future[Outcome[Any]]"


class Scheduler:
    """Worker threads over one dispatcher, each on a CPU of its own where `cpus` has enough; and one more, for
    what the dispatcher runs ahead of theirs, which keeps the priority of whoever calls `start`."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics, cpus: Sequence[int] = ()) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._hurried = threading.Condition(lock)
        self._cpus: dict[Job, int | None] = {}  # where each of a worker's runs
        self._stopping = False
        self._turnstile = Turnstile()
        own = cpus if len(cpus) >= dispatcher.workers else [None] * dispatcher.workers
        self._first_cpu = own[0]
        self._threads = [
            threading.Thread(target=self._work, args=(own[i],), name=f"inference-{i}", daemon=True)
            for i in range(dispatcher.workers)
        ]
        self._threads.append(threading.Thread(target=self._work_ahead, name="inference-ahead", daemon=True))

    def start(self) -> None:
        """Raises RuntimeError where the system has not so many threads, and then leaves none."""
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:
            self.stop()
            raise

    def stop(self) -> None:
        """Finishes what is queued, then ends the workers."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self._hurried.notify_all()
        for thread in self._threads:
            if thread.is_alive():  # else it is done, or was never started
                thread.join()

    async def let_in(self, arrival: float, budget_ms: float | None, *, reject_late: bool) -> None:
        """A request's turn to be read, before it is: in a burst the urgent first, and answers before all.
        Raises Overloaded when its turn would come too late and it does not want a late answer."""
        due = arrival + (UNBOUNDED_PATIENCE_MS if budget_ms is None else budget_ms)
        latest = due if reject_late and budget_ms is not None else math.inf
        try:
            await self._turnstile.enter(due, latest)
        except TooFarBehind as refused:
            self._metrics.refused("late")
            raise _overloaded(Refusal("late", refused.late_ms)) from None

    async def run(self, submission: Submission[Result]) -> Outcome[Result]:
        """Queues the work and waits. Raises a Problem; a cancelled caller leaves the queue."""
        result: asyncio.Future[Outcome[Result]] = asyncio.get_running_loop().create_future()
        job = self._job(_Ticket(submission, result))
        with self._changed:
            self._check_feasible(submission, job)
            refusal = self._dispatcher.admit(job, now_ms())
            if refusal is not None:
                self._metrics.refused(refusal.reason)
                raise _overloaded(refusal)
            self._tell_queue()
            if self._dispatcher.hurries:
                self._hurried.notify()
            if len(self._dispatcher):  # not only else: one that hurries may not have been taken yet
                self._changed.notify()
        try:
            return await result
        except asyncio.CancelledError:
            with self._changed:
                waiting = self._dispatcher.cancel(job)
                self._tell_queue()
            self._metrics.cancelled("waiting" if waiting else "running")
            raise
        finally:
            # An exception knows this frame: if that still knew the future, which knows the exception, the
            # picture would stay in memory until the garbage collector comes by.
            del result

    def answered(self, outcome: Outcome[Any]) -> None:
        """To be called when the answer is about to leave."""
        now = now_ms()
        with self._changed:
            self._dispatcher.answered(now - outcome.finished)
        deadline = outcome.assignment.job.deadline
        self._metrics.served(outcome, deadline is None or now <= deadline)

    def choose_idle(self, work: Work[object], budget_ms: float) -> int | None:
        """The way to answer that such work would get now on an idle device; None when none fits."""
        expected = work.expected(self._dispatcher.estimates)
        with self._changed:
            costs = self._dispatcher.estimates.costs(expected)
        chosen = planner.choose(costs, work.accuracies, fastest(expected), budget_ms, budget_ms)
        return None if chosen.decision == "infeasible" else chosen.index

    def latencies(self, variant: LoadedVariant | LoadedDetector) -> tuple[Quantiles, Quantiles | None]:
        """Inference times by the profile, and of the latest runs."""
        with self._changed:
            estimates = self._dispatcher.estimates
            return estimates.profiled(variant.key), estimates.live(variant.key)

    def _job(self, ticket: _Ticket) -> Job:
        submission = ticket.submission
        work, budget = submission.work, submission.budget_ms
        return Job(
            expected=work.expected(self._dispatcher.estimates),
            top1=work.accuracies,
            arrival=submission.arrival,
            deadline=None if budget is None else submission.arrival + budget,
            size_bytes=work.size_bytes,
            pinned=0 if work.pinned else None,
            reject_late=submission.reject_late,
            payload=ticket,
        )

    def _check_feasible(self, submission: Submission[Any], job: Job) -> None:
        """With on_miss=reject, what would not fit an idle device is refused for good."""
        budget_ms = submission.budget_ms
        if budget_ms is None or not submission.reject_late:
            return
        fastest_ms = self._dispatcher.idle_fastest_ms(job, now_ms())
        if fastest_ms == math.inf:  # what could not be brought into memory
            raise errors.NotReady("no variant that would do can be loaded; see GET /v1/variants")
        if fastest_ms > budget_ms:
            self._metrics.refused("infeasible")
            raise errors.BudgetInfeasible(budget_ms, fastest_ms)

    def _work(self, cpu: int | None) -> None:
        _settle(cpu)
        taken = self._take(cpu)
        while taken is not None:
            tickets = self._tickets(taken)
            with self._where(taken):
                results = serve([ticket.submission for ticket in tickets], taken)
            with self._changed:
                self._finish(taken, results)
                # Before the event loop is woken, which would wait for the interpreter meanwhile.
                taken = self._next(cpu)
            _hand_over(tickets, results)
            del tickets, results  # as in `run`
            if taken is None:
                taken = self._take(cpu)

    def _work_ahead(self) -> None:
        """On the CPU of who is held up: the other workers go on."""
        anywhere = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        while True:
            with self._changed:
                while (taken := self._dispatcher.next_ahead()) is None:
                    if self._stopping:
                        return
                    self._hurried.wait()
                cpu = None if taken.ahead_of is None else self._cpus.get(taken.ahead_of)
            stay_on(anywhere if cpu is None else {cpu})
            self._metrics.preempted()
            tickets = self._tickets(taken)
            results = serve([ticket.submission for ticket in tickets], taken)
            with self._changed:
                self._finish(taken, results)
            _hand_over(tickets, results)
            del tickets, results

    def _where(self, taken: Assignment | Job) -> "contextlib.AbstractContextManager[None]":
        """What needs all workers runs on the first one's CPU: the runtime's threads are on the others."""
        several = isinstance(taken, Assignment) and taken.threads > 1
        return on_cpu(self._first_cpu) if several and self._first_cpu is not None else _WHERE_IT_IS

    def _tickets(self, taken: Assignment | Job) -> list[_Ticket]:
        """Of who waits for it. The outcome knows its job: if that still knew who waits for the outcome, each
        picture would stay in memory until the garbage collector comes by."""
        jobs = [taken] if isinstance(taken, Job) else [part.job for part in taken.parts]
        if len(jobs) > 1:
            self._metrics.paired()
        tickets = []
        for job in jobs:
            tickets.append(job.payload)
            job.payload = None
        return tickets

    def _finish(self, done: Assignment | Job, results: Sequence[Outcome[Any] | Exception]) -> None:
        """First of all, so that a client's next request does not find its last one still running."""
        if isinstance(done, Job):
            self._metrics.refused("expired")
            return
        self._cpus.pop(done.job, None)
        ran = next((each.ran for each in results if isinstance(each, Outcome)), None)
        if ran is None:
            self._dispatcher.finish(done, now_ms(), None)
        else:
            self._dispatcher.finish(done, now_ms(), ran.inference_ms, ran.expected, ran.load_ms)
            self._metrics.slowed(self._dispatcher.estimates.slowdown)
            self._metrics.reckoned(self._dispatcher.pessimism)
        if done.threads > 1:
            self._changed.notify_all()  # the other workers were kept from what came meanwhile

    def _tell_queue(self) -> None:
        self._metrics.waiting(len(self._dispatcher), self._dispatcher.queued_bytes)

    def _take(self, cpu: int | None) -> Assignment | Job | None:
        """Waits for work; None once all is done and the scheduler stops."""
        with self._changed:
            while True:
                taken = self._next(cpu)
                if taken is not None or self._stopping:
                    return taken
                self._changed.wait()

    def _next(self, cpu: int | None) -> Assignment | Job | None:
        """What a worker shall do now, if there is anything; `cpu` is its own."""
        taken = self._dispatcher.next(now_ms())
        if taken is not None:
            if isinstance(taken, Assignment):
                self._cpus[taken.job] = cpu
            self._tell_queue()
        return taken


def _settle(cpu: int | None) -> None:
    """Lets the event loop go before this thread when both want a core: requests are read, refused and
    answered while all cores compute. A thread with a core of its own is never put beside another one: left
    to the kernel, two workers that wake together share a core for milliseconds while the other idles."""
    lower_priority(WORKER_NICENESS)
    if cpu is not None:
        stay_on({cpu})


def _overloaded(refusal: Refusal) -> errors.Overloaded:
    # Rounded up: whoever comes back earlier is refused again. Infinite behind what cannot be loaded.
    retry_ms = min(refusal.retry_after_ms, _LONGEST_RETRY_MS)
    retry_s = max(1, math.ceil(retry_ms / 1e3))
    return errors.Overloaded(
        f"{_WHY[refusal.reason]}; there will be room in about {retry_ms:.0f} ms",
        headers={"Retry-After": str(retry_s)},
        retry_after_ms=math.ceil(retry_ms * 10) / 10,
    )


def _hand_over(tickets: Sequence[_Ticket], results: Sequence[Outcome[Any] | Exception]) -> None:
    """Hands results over to the event loop that waits, and is woken once; a caller that has left is none."""
    futures = [ticket.result for ticket in tickets]

    def deliver() -> None:
        for future, result in zip(futures, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Outcome):
                future.set_result(result)
            else:
                future.set_exception(result)

    with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to answer
        futures[0].get_loop().call_soon_threadsafe(deliver)
