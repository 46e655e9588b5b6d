"""Tensors that clients resized themselves: one at a time, at a priority of their own."""

import asyncio
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from model_store.imaging import UInt8Array
from model_store.profile import Quantiles
from model_store.store import ModelStore
from service import errors, raw_runs
from service.clock import now_ms
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.open_inference import InputTensor
from service.raw_runs import RawRuns
from service.residency import OnDemand, Residency

PIXEL = InputTensor(name="image", shape=[1, 1, 1, 3], datatype="UINT8", data=[1, 2, 3])
SCHEDULER = cast(Any, SimpleNamespace(latencies=lambda variant: (Quantiles(p50=20, p95=50), None)))


class Session:
    """Answers when the test lets it, and knows at which niceness it ran."""

    def __init__(self) -> None:
        self.ends = threading.Event()
        self.niceness: int | None = None

    def run(self, images: UInt8Array) -> str:
        assert self.ends.wait(20)
        self.niceness = niceness()
        return "scores"


def variant(session: object) -> Any:
    return SimpleNamespace(id="test", provider="test", session=session)


def niceness() -> int:
    """Of the calling thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_those_that_waited_too_long_for_others_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(ms=0.0)
    monkeypatch.setattr(raw_runs, "now_ms", lambda: clock.ms)

    async def go() -> None:
        runs, session = RawRuns(), Session()
        first = asyncio.ensure_future(runs.run(SCHEDULER, variant(session), PIXEL, 0.0, None))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(runs.run(SCHEDULER, variant(session), PIXEL, 0.0, 100.0))
        await asyncio.sleep(0)  # it waits for the first
        clock.ms = 200.0
        session.ends.set()
        assert cast(Any, (await first).scores) == "scores"
        with pytest.raises(errors.DeadlineExceeded):
            await second

    asyncio.run(go())


def test_a_budget_between_the_usual_time_and_what_almost_all_take_is_told_the_latter() -> None:
    """A budget of the figure that it is told would do; the median, of which it has more, would not."""
    pair = InputTensor(name="image", shape=[2, 1, 1, 3], datatype="UINT8", data=[1, 2, 3] * 2)
    with pytest.raises(errors.BudgetInfeasible) as refused:
        asyncio.run(RawRuns().run(SCHEDULER, variant(Session()), pair, now_ms(), 60.0))
    assert refused.value.extra["fastest_ms"] >= 100


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a priority of its own on Linux")
def test_a_variant_is_loaded_at_the_usual_priority_and_runs_at_the_lowest(store_dir: Path) -> None:
    """Who loads one keeps others from loading theirs, and at the lowest priority that lasts."""
    manifest = ModelStore(store_dir).variants("imagenet")[0].manifest
    assert manifest is not None
    session, loaded_at = Session(), []
    session.ends.set()

    def opened() -> Session:
        loaded_at.append(niceness())
        return session

    mib = 1 << 20
    residency = Residency(MemoryBudget(24 * mib, queue=0, decoding=100 * mib), Metrics())
    comes_and_goes = OnDemand(residency, [manifest], 10 * mib, opened)
    for _ in range(2):
        asyncio.run(RawRuns().run(SCHEDULER, variant(comes_and_goes), PIXEL, now_ms(), None))
    assert loaded_at == [niceness()]
    assert session.niceness == 19
    assert comes_and_goes.users == 0
