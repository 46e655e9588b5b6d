"""Runs of tensors that clients resized themselves, beside the deadline queue."""

import asyncio
from dataclasses import dataclass

from model_store.runtime import Scores
from service import errors
from service.catalog import LoadedVariant
from service.clock import now_ms
from service.open_inference import InputTensor, raw_pictures
from service.residency import on_demand
from service.scheduler import Scheduler
from service.schemas import Decision

_MOST_WAITING = 4


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
    """One at a time, so that pictures keep their time: a batch of tensors gets one thread, no more.

    For one event loop.
    """

    def __init__(self) -> None:
        self._free = asyncio.Lock()
        self._waiting = 0

    async def run(
        self,
        scheduler: Scheduler,
        variant: LoadedVariant,
        tensor: InputTensor,
        arrival: float,
        limit_ms: float | None,
    ) -> RawOutcome:
        """Raises BudgetInfeasible when more than `limit_ms` since `arrival` is expected, and Overloaded."""
        submitted = now_ms()
        profiled, latest = scheduler.latencies(variant)
        times = latest or profiled
        before_ms = submitted - arrival + sum(each.load_ms for each in on_demand(variant.session))
        predicted_ms, bound_ms = (before_ms + tensor.shape[0] * t for t in (times.p50, times.p95))
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
            scores = await asyncio.to_thread(lambda: variant.session.run(raw_pictures(tensor)))
        finally:
            self._free.release()
        return RawOutcome(scores, variant, predicted_ms, bound_ms, started - submitted, now_ms() - started)
