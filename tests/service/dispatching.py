"""A dispatcher over four variants, driven step by step."""

from collections.abc import Iterable

from model_store.profile import DeviceProfile, Quantiles
from service.dispatch import Dispatcher
from service.jobs import Assignment, Job
from service.latency import ANSWER_MS, Expected, LatencyEstimates

COSTS_MS = (16.0, 8.0, 4.0, 1.0)
TOP1 = (0.7, 0.65, 0.6, 0.4)
EXPECTED = [Expected(f"v{i}", 1.0, ms) for i, ms in enumerate(COSTS_MS)]
FASTEST_MS = 2.0  # with decoding


def dispatcher(
    workers: int = 1, max_length: int = 100, max_bytes: int = 1 << 30, *, preempts: bool = False
) -> Dispatcher:
    inference = {e.key: Quantiles(p50=e.inference_ms, p95=e.inference_ms) for e in EXPECTED}
    profile = DeviceProfile(device="test", inference=inference)
    estimates = LatencyEstimates(profile)
    return Dispatcher(estimates, workers, max_length=max_length, max_bytes=max_bytes, preempts=preempts)


def job(
    budget: float | None,
    now: float = 0.0,
    *,
    size: int = 10,
    pinned: int | None = None,
    reject: bool = False,
    payload: object = None,
) -> Job:
    deadline = None if budget is None else now + budget
    return Job(EXPECTED, TOP1, now, deadline, size, pinned, reject, payload)


def admitted(d: Dispatcher, jobs: Iterable[Job], now: float = 0.0) -> list[Job]:
    taken = list(jobs)
    for each in taken:
        assert d.admit(each, now) is None
    return taken


def assigned(d: Dispatcher, now: float) -> Assignment:
    taken = d.next(now)
    assert isinstance(taken, Assignment)
    return taken


def finished(d: Dispatcher, done: Assignment, now: float) -> None:
    d.finish(done, now, done.job.expected[done.index].inference_ms)
    d.answered(ANSWER_MS)


def in_order(d: Dispatcher, now: float) -> list[Job]:
    """What one worker runs, each job in its expected time."""
    order = []
    while (taken := d.next(now)) is not None:
        assert isinstance(taken, Assignment)
        now += taken.job.expected[taken.index].service_ms
        finished(d, taken, now)
        order.append(taken.job)
    return order
