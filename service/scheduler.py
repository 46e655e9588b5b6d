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
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_store.device import lower_priority
from model_store.imaging import ImageError, ImageHeader, decode
from model_store.profile import Quantiles
from model_store.runtime import Scores
from service import errors, planner
from service.catalog import LoadedVariant, Plan, TaskCatalog
from service.dispatch import Assignment, Dispatcher, Job, Refusal
from service.latency import Expected, fastest
from service.metrics import Metrics
from service.schemas import Decision

log = logging.getLogger(__name__)

WORKER_NICENESS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What is to be classified, and what the client asked for. `arrival` is of `now_ms`."""

    task: TaskCatalog
    data: bytes
    header: ImageHeader
    arrival: float
    budget_ms: float | None
    pinned: LoadedVariant | None
    reject_late: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """Scores [classes], the variant that made them, and the time of each phase in ms.

    `predicted_ms` and `bound_ms` are what was expected in all when the variant was chosen, `finished`
    when the worker was done.
    """

    scores: Scores
    variant: LoadedVariant
    assignment: Assignment
    predicted_ms: float
    bound_ms: float
    queue_ms: float
    decode_ms: float
    inference_ms: float
    finished: float

    @property
    def decision(self) -> Decision:
        return self.assignment.decision

    @property
    def threads(self) -> int:
        return self.assignment.threads


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    """A picture on its way, the plans that it may get (one for a pinned variant), and who waits for it."""

    picture: Picture
    plans: Sequence[Plan]
    result: "asyncio.Future[Outcome]"


def now_ms() -> float:
    """The clock of deadlines: monotonic milliseconds."""
    return time.monotonic() * 1e3


class Scheduler:
    """Worker threads over one dispatcher, each on a CPU of its own where `cpus` has enough."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics, cpus: Sequence[int] = ()) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._changed = threading.Condition()
        self._stopping = False
        own = cpus if len(cpus) >= dispatcher.workers else [None] * dispatcher.workers
        self._threads = [
            threading.Thread(target=self._work, args=(own[i],), name=f"inference-{i}", daemon=True)
            for i in range(dispatcher.workers)
        ]
        metrics.watch_queue(lambda: len(dispatcher), lambda: dispatcher.queued_bytes)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finishes what is queued, then ends the workers."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    async def run(self, picture: Picture) -> Outcome:
        """Queues the picture and waits. Raises a Problem; a cancelled caller leaves the queue."""
        result: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        job = self._job(_Ticket(picture, _plans(picture), result))
        with self._changed:
            self._check_feasible(picture, job)
            refusal = self._dispatcher.admit(job, now_ms())
            if refusal is not None:
                self._metrics.refused("full" if refusal.full else "late")
                raise _overloaded(refusal)
            self._changed.notify()
        try:
            return await result
        except asyncio.CancelledError:
            with self._changed:
                waiting = self._dispatcher.cancel(job)
            self._metrics.cancelled("waiting" if waiting else "running")
            raise

    def answered(self, outcome: Outcome) -> None:
        """To be called when the answer is about to leave."""
        now = now_ms()
        with self._changed:
            self._dispatcher.answered(outcome.assignment, now, now - outcome.finished)
        deadline = outcome.assignment.job.deadline
        self._metrics.served(outcome, deadline is None or now <= deadline)

    def expected(self, task: TaskCatalog, header: ImageHeader) -> list[Expected]:
        """What each plan of the task is expected to take for such a picture, before correction."""
        return self._expected(task.plans, task, header)

    def _expected(self, plans: Sequence[Plan], task: TaskCatalog, header: ImageHeader) -> list[Expected]:
        preprocessing = task.manifest.preprocessing
        estimates = self._dispatcher.estimates
        return [
            estimates.expected(p.key, header, p.variant.manifest.resolution, preprocessing, p.threads)
            for p in plans
        ]

    def choose_idle(self, task: TaskCatalog, header: ImageHeader, budget_ms: float) -> LoadedVariant | None:
        """The variant that such a picture would get now on an idle device; None when none fits."""
        expected = self.expected(task, header)
        with self._changed:
            works, bounds = self._dispatcher.estimates.works_and_bounds_ms(expected)
        chosen = planner.choose(bounds, works, fastest(expected), budget_ms, budget_ms)
        return None if chosen.decision == "infeasible" else task.plans[chosen.index].variant

    def latencies(self, variant: LoadedVariant) -> tuple[Quantiles, Quantiles | None]:
        """Inference times by the profile, and of the latest runs."""
        with self._changed:
            estimates = self._dispatcher.estimates
            return estimates.profiled(variant.key), estimates.live(variant.key)

    def _job(self, ticket: _Ticket) -> Job:
        picture, plans = ticket.picture, ticket.plans
        budget = picture.budget_ms
        return Job(
            expected=self._expected(plans, picture.task, picture.header),
            top1=picture.task.top1 if picture.pinned is None else [picture.pinned.top1],
            arrival=picture.arrival,
            deadline=None if budget is None else picture.arrival + budget,
            size_bytes=len(picture.data),
            pinned=None if picture.pinned is None else 0,
            reject_late=picture.reject_late,
            payload=ticket,
        )

    def _check_feasible(self, picture: Picture, job: Job) -> None:
        """With on_miss=reject, what would not fit an idle device is refused for good."""
        if picture.budget_ms is None or not picture.reject_late:
            return
        fastest_ms = self._dispatcher.idle_fastest_ms(job)
        if fastest_ms > picture.budget_ms:
            self._metrics.refused("infeasible")
            raise errors.BudgetInfeasible(picture.budget_ms, fastest_ms)

    def _work(self, cpu: int | None) -> None:
        _settle(cpu)
        while (taken := self._take()) is not None:
            if isinstance(taken, Job):
                self._metrics.refused("expired")
                _hand_over(
                    taken.payload, errors.DeadlineExceeded("the deadline passed before a worker was free")
                )
                continue
            result: Outcome | Exception
            inference_ms = None
            try:
                result = _serve(taken)
                inference_ms = result.inference_ms
            except Exception as error:
                result = error
            # First of all, so that a client's next request does not find its last one still running.
            with self._changed:
                self._dispatcher.finish(taken, now_ms(), inference_ms)
                if taken.threads > 1:
                    self._changed.notify_all()  # the other workers were kept from what came meanwhile
            _hand_over(taken.job.payload, result)

    def _take(self) -> Assignment | Job | None:
        """Waits for work; None once all is done and the scheduler stops."""
        with self._changed:
            while True:
                taken = self._dispatcher.next(now_ms())
                if taken is not None:
                    return taken
                if self._stopping:
                    return None
                self._changed.wait()


def _settle(cpu: int | None) -> None:
    """Lets the event loop go before this thread when both want a core: requests are read, refused and
    answered while all cores compute. A thread with a core of its own is never put beside another one: left
    to the kernel, two workers that wake together share a core for milliseconds while the other idles."""
    lower_priority(WORKER_NICENESS)
    if cpu is not None:
        with contextlib.suppress(OSError, AttributeError):  # not Linux, or not allowed
            os.sched_setaffinity(0, {cpu})


def _serve(assignment: Assignment) -> Outcome:
    ticket: _Ticket = assignment.job.payload
    picture, plan = ticket.picture, ticket.plans[assignment.index]
    variant = plan.variant
    started = now_ms()
    try:
        image = decode(picture.data, variant.manifest.resolution, picture.task.manifest.preprocessing)
    except ImageError as error:
        raise errors.UnreadableImage(str(error)) from None
    decoded = now_ms()
    scores = plan.session.run(image[np.newaxis])[0]
    finished = now_ms()
    elapsed = assignment.started - picture.arrival
    return Outcome(
        scores=scores,
        variant=variant,
        assignment=assignment,
        predicted_ms=elapsed + assignment.median_ms,
        bound_ms=elapsed + assignment.bound_ms,
        queue_ms=started - assignment.job.submitted,
        decode_ms=decoded - started,
        inference_ms=finished - decoded,
        finished=finished,
    )


def _plans(picture: Picture) -> Sequence[Plan]:
    """A pinned variant runs on one thread; nothing else needs an estimate then."""
    pinned = picture.pinned
    if pinned is None:
        return picture.task.plans
    return [next(plan for plan in picture.task.plans if plan.variant is pinned)]


def _overloaded(refusal: Refusal) -> errors.Overloaded:
    # Rounded up: whoever comes back earlier is refused again.
    retry_s = max(1, math.ceil(refusal.retry_after_ms / 1e3))
    why = "the queue is full" if refusal.full else "the budget cannot be met with the work that waits"
    return errors.Overloaded(
        f"{why}; there will be room in about {refusal.retry_after_ms:.0f} ms",
        headers={"Retry-After": str(retry_s)},
        retry_after_ms=math.ceil(refusal.retry_after_ms * 10) / 10,
    )


def _hand_over(ticket: _Ticket, result: Outcome | Exception) -> None:
    """Hands a result over to the event loop that waits; a caller that has left is none."""
    future = ticket.result

    def deliver() -> None:
        if future.done():
            return
        if isinstance(result, Outcome):
            future.set_result(result)
        else:
            future.set_exception(result)

    with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to answer
        future.get_loop().call_soon_threadsafe(deliver)
