"""Requests in order of their deadlines, and the threads that serve them.

A job enters the queue when its body is read; the variant is chosen when a worker takes it, with the
time that is really left. Decoding and inference run on that worker, off the event loop.
"""

import asyncio
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from model_store.imaging import ImageError, ImageHeader, decode
from model_store.runtime import Scores
from service import errors
from service.catalog import LoadedVariant, TaskCatalog
from service.latency import LatencyEstimates
from service.planner import Plan, plan

log = logging.getLogger(__name__)

# A request without a budget is due as if it had this one: after those in a hurry, but not for ever.
UNBOUNDED_PATIENCE_S = 10.0


@dataclass(slots=True, eq=False)
class Job:
    """One picture to classify. Times are of `time.monotonic()`, in seconds.

    `arrival` is when the request's head was there, `deadline` None without a budget.
    """

    task: TaskCatalog
    data: bytes
    header: ImageHeader
    arrival: float
    deadline: float | None
    pinned: LoadedVariant | None = None
    reject_late: bool = False
    submitted: float = 0.0
    result: "asyncio.Future[Outcome]" = field(init=False)

    @property
    def due(self) -> float:
        """What orders the queue."""
        return self.arrival + UNBOUNDED_PATIENCE_S if self.deadline is None else self.deadline


@dataclass(frozen=True, slots=True)
class Outcome:
    """Scores [classes] with the plan that made them and the time of each phase."""

    scores: Scores
    plan: Plan
    queue_ms: float
    decode_ms: float
    inference_ms: float


class DeadlineQueue:
    """Bounded, earliest deadline first; closed once, then empty for every taker."""

    def __init__(self, max_length: int, max_bytes: int) -> None:
        self._max_length, self._max_bytes = max_length, max_bytes
        self._heap: list[tuple[float, int, Job]] = []
        self._bytes = 0
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job) -> bool:
        """False when the queue is full or closed."""
        with self._changed:
            full = len(self._heap) >= self._max_length
            if self._closed or full or self._bytes + len(job.data) > self._max_bytes:
                return False
            heapq.heappush(self._heap, (job.due, next(self._order), job))
            self._bytes += len(job.data)
            self._changed.notify()
            return True

    def take(self) -> Job | None:
        """The most urgent job; waits for one. None once the queue is closed and empty."""
        with self._changed:
            while not self._heap:
                if self._closed:
                    return None
                self._changed.wait()
            job = heapq.heappop(self._heap)[2]
            self._bytes -= len(job.data)
            return job

    def discard(self, job: Job) -> bool:
        """Removes a job that waits; False when it was taken already."""
        with self._changed:
            kept = [entry for entry in self._heap if entry[2] is not job]
            if len(kept) == len(self._heap):
                return False
            heapq.heapify(kept)
            self._heap = kept
            self._bytes -= len(job.data)
            return True

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Scheduler:
    """Worker threads over one deadline queue."""

    def __init__(
        self,
        estimates: LatencyEstimates,
        queue: DeadlineQueue,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.estimates = estimates
        self._queue = queue
        self._clock = clock
        self._threads = [
            threading.Thread(target=self._work, name=f"inference-{i}", daemon=True) for i in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finishes what is queued, then ends the workers."""
        self._queue.close()
        for thread in self._threads:
            thread.join()

    async def run(self, job: Job) -> Outcome:
        """Queues the job and waits. Raises a Problem; a cancelled caller leaves the queue."""
        self._check_feasible(job)
        job.submitted = self._clock()
        job.result = asyncio.get_running_loop().create_future()
        if not self._queue.put(job):
            raise errors.Overloaded(
                "too many pictures are waiting; try again later", headers={"Retry-After": "1"}
            )
        try:
            return await job.result
        except asyncio.CancelledError:
            self._queue.discard(job)
            raise

    def _check_feasible(self, job: Job) -> None:
        """With on_miss=reject, what would not fit an idle device is refused before it waits."""
        if job.deadline is None or not job.reject_late:
            return
        variants = (job.pinned,) if job.pinned else job.task.variants
        fastest_ms = min(c.cost_ms for c in self._candidates(job, variants))
        budget_ms = (job.deadline - job.arrival) * 1e3
        if fastest_ms > budget_ms:
            raise errors.BudgetInfeasible(budget_ms, fastest_ms)

    def _candidates(self, job: Job, variants: tuple[LoadedVariant, ...]):  # type: ignore[no-untyped-def]
        return self.estimates.candidates(variants, job.header, job.task.manifest.preprocessing)

    def _plan(self, job: Job, now: float) -> Plan:
        if job.pinned:
            return Plan(self._candidates(job, (job.pinned,))[0], "pinned")
        candidates = self._candidates(job, job.task.variants)
        if job.deadline is None:
            return plan(candidates, None, None)
        return plan(candidates, (job.deadline - now) * 1e3, (job.deadline - job.submitted) * 1e3)

    def _work(self) -> None:
        while (job := self._queue.take()) is not None:
            if job.result.cancelled():
                continue
            try:
                outcome = self._serve(job)
            except Exception as error:
                _settle(job.result, error)
            else:
                _settle(job.result, outcome)

    def _serve(self, job: Job) -> Outcome:
        taken = self._clock()
        if job.reject_late and job.deadline is not None and taken > job.deadline:
            raise errors.DeadlineExceeded("the deadline passed before a worker was free")
        chosen = self._plan(job, taken)
        variant = chosen.candidate.variant
        try:
            image = decode(job.data, variant.manifest.resolution, job.task.manifest.preprocessing)
        except ImageError as error:
            raise errors.UnreadableImage(str(error)) from None
        decoded = self._clock()
        scores = variant.session.run(image[np.newaxis])[0]
        finished = self._clock()
        return Outcome(
            scores=scores,
            plan=chosen,
            queue_ms=(taken - job.submitted) * 1e3,
            decode_ms=(decoded - taken) * 1e3,
            inference_ms=(finished - decoded) * 1e3,
        )


def _settle(future: "asyncio.Future[Outcome]", result: Outcome | Exception) -> None:
    """Hands a result over to the event loop that waits; a caller that has left is none."""

    def deliver() -> None:
        if future.done():
            return
        if isinstance(result, Outcome):
            future.set_result(result)
        else:
            future.set_exception(result)

    try:
        future.get_loop().call_soon_threadsafe(deliver)
    except RuntimeError:  # the loop has closed: nobody is left to answer
        log.debug("a result came after the event loop had closed")
