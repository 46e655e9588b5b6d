"""Runs of tensors that clients resized themselves, beside the deadline queue."""

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from model_store.device import lower_priority
from model_store.runtime import Scores
from service import errors
from service.catalog import LoadedVariant
from service.clock import now_ms
from service.open_inference import InputTensor, raw_pictures
from service.residency import held, in_memory, on_demand
from service.scheduler import Scheduler
from service.schemas import Decision

_MOST_WAITING = 4
# Beside batches of 8, inference of 1.0_224 took 32 ms at the 95th percentile with it, 86 with that of the
# workers, and 29 alone.
_NICENESS = 19


@dataclass(frozen=True, slots=True)
class RawOutcome:
    """As `Outcome`, with scores [N, classes]. There is nothing to decode."""

    scores: Scores
    variant: LoadedVariant
    predicted_ms: float
    bound_ms: float
    queue_ms: float
    inference_ms: float
    decode_ms: float = 0.0
    threads: int = 1
    decision: Decision = "pinned"


class RawRuns:
    """One at a time, so that pictures keep their time: a batch of tensors gets one thread, no more, and what
    the workers leave.

    For one event loop.
    """

    def __init__(self) -> None:
        self._free = asyncio.Lock()
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "raw", lower_priority, (_NICENESS,))

    async def run(
        self,
        scheduler: Scheduler,
        variant: LoadedVariant,
        tensor: InputTensor,
        arrival: float,
        limit_ms: float | None,
    ) -> RawOutcome:
        """Raises BudgetInfeasible when more than `limit_ms` since `arrival` is expected, DeadlineExceeded
        when it turns out so after the wait for others, NotReady and Overloaded."""
        submitted = now_ms()
        profiled, latest = scheduler.latencies(variant)
        times = latest or profiled
        before_ms = submitted - arrival + sum(each.load_ms for each in on_demand(variant.session))
        predicted_ms, bound_ms = (before_ms + tensor.shape[0] * t for t in (times.p50, times.p95))
        if bound_ms == math.inf:
            raise errors.NotReady(f"the variant {variant.id!r} cannot be loaded; see GET /v1/variants")
        if limit_ms is not None and bound_ms > limit_ms:
            raise errors.BudgetInfeasible(limit_ms, bound_ms)
        if self._waiting >= _MOST_WAITING:
            raise errors.Overloaded("too many tensors are waiting", headers={"Retry-After": "1"})
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            started = now_ms()
            if limit_ms is not None and started - submitted + bound_ms > limit_ms:
                raise errors.DeadlineExceeded("there is not enough time left after the tensors before")
            scores = await asyncio.to_thread(self._run, variant, tensor)
        finally:
            self._free.release()
        return RawOutcome(scores, variant, predicted_ms, bound_ms, started - submitted, now_ms() - started)

    def _run(self, variant: LoadedVariant, tensor: InputTensor) -> Scores:
        """Only inference is of the lowest priority: reading lists keeps the interpreter, and who loads a
        variant keeps others from loading theirs."""
        images = raw_pictures(tensor)
        with in_memory(on_demand(variant.session)):
            return self._thread.submit(held(variant.session).run, images).result()
