"""On which CPU a worker runs what: its own, but for what has the threads of all workers."""

import asyncio
import os
import threading
import time
from typing import cast

import pytest

from model_store.profile import DeviceProfile, Quantiles
from service.catalog import LoadedVariant
from service.clock import now_ms
from service.dispatch import Dispatcher
from service.jobs import Assignment
from service.latency import Expected, LatencyEstimates
from service.metrics import Metrics
from service.outcomes import Submission
from service.scheduler import Scheduler
from service.work import Ran

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="only Linux tells the affinity of threads, and there have to be two CPUs",
)

Seen = tuple[str, int, set[int]]
EXPECTED = [Expected("v", 1.0, 16.0), Expected("v/2 threads", 1.0, 8.0, threads=2)]


class Looking:
    """Work that tells who runs it, with how many threads, and where."""

    size_bytes, accuracies, pinned, task = 1, (0.7, 0.7), False, "test"

    def __init__(self, together: threading.Barrier | None = None) -> None:
        self._together = together

    def expected(self, estimates: LatencyEstimates) -> list[Expected]:
        return EXPECTED

    def run(self, assignment: Assignment) -> Ran[Seen]:
        if self._together is not None:
            self._together.wait(20)
        time.sleep(0.01 / assignment.threads**2)  # so that all threads are plainly faster, on any machine
        seen = threading.current_thread().name, assignment.threads, os.sched_getaffinity(0)
        return Ran(seen, cast(LoadedVariant, None), assignment.expected, 0.0, 1.0)


def test_what_has_all_threads_runs_on_the_first_cpu_whoever_takes_it() -> None:
    """The threads that help it are on the other CPUs. Workers return to their own."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    inference = {e.key: Quantiles(p50=e.inference_ms, p95=e.inference_ms) for e in EXPECTED}
    estimates = LatencyEstimates(DeviceProfile(device="test", inference=inference))
    scheduler = Scheduler(Dispatcher(estimates, 2, max_length=10, max_bytes=100), Metrics(), cpus)
    scheduler.start()

    async def ask(together: threading.Barrier | None = None) -> Seen:
        work = Looking(together)
        return (await scheduler.run(Submission(work, now_ms(), None, reject_late=False))).result

    async def ask_all() -> list[Seen]:
        seen = []
        for _ in range(5):
            seen += [await ask() for _ in range(20)]
            await asyncio.gather(ask(), ask())  # nobody is alone any more
            both = threading.Barrier(2)
            seen += await asyncio.gather(ask(both), ask(both))
        return seen

    seen = asyncio.run(ask_all())
    scheduler.stop()
    for worker, threads, where in seen:
        own = cpus[int(worker.removeprefix("inference-"))]
        assert where == ({cpus[0]} if threads == 2 else {own})
    assert {(worker, threads) for worker, threads, _ in seen} >= {("inference-1", 2), ("inference-1", 1)}
