"""As bench.simulator, on cores that the event loop and the callers use too: `python -m bench.contended`.

On a gateway of two cores nobody has a core to himself. Here, one event loop reads and answers, one thread
sends the requests, and two workers, each bound to a core, all compete for the two cores, in steps of virtual
time. What a worker needs is longer and far noisier than a benchmark says, as it is in a process that does
something else in between.
"""

import argparse
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.simulator import (
    Family,
    Floats,
    Result,
    Workload,
    capacity_per_s,
    poisson,
    ramp,
    square_wave,
    trace,
    workload,
)
from service.dispatch import Dispatcher
from service.jobs import Assignment, Job
from service.latency import Expected, LatencyEstimates

CORES = 2
_STEP_MS = 0.1
# Milliseconds of the event loop's time: what it has between inferences on two cores of Zen 4, divided as a
# profile of the service under load divides it.
_READ_HEAD_MS, _READ_BODY_MS, _ADMIT_MS = 0.15, 0.08, 0.25
_ANSWER_MS, _WRITE_MS, _REFUSE_MS = 0.22, 0.1, 0.2
# The load generator's.
_SEND_MS, _RECEIVE_MS = 0.2, 0.15
# A worker's, besides decoding and inference; and what remains to it of a core on which another thread runs.
_HANDOVER_MS, _SHARE = 0.15, 0.2
# The same of one that runs ahead of a worker, on an else idle core and on one with a thread; the worker
# has the rest.
_SHARE_AHEAD, _SHARE_AHEAD_BESIDE = 0.8, 0.4

# One network of each width, with what inference takes there between other work (medians, milliseconds).
FAMILY = Family(
    ("1.0_224", "0.75_192", "0.5_160", "0.25_128"), (0.709, 0.672, 0.591, 0.415), (12.6, 6.4, 2.85, 1.25)
)
# Decoding, of 132 photos: their quantiles; one in 26 is of several megapixels and takes far longer.
_DECODE_MS = (0.44, 0.54, 0.70, 0.96, 1.09, 1.14, 1.28, 1.41, 1.46, 1.56, 1.72, 2.22)
_LARGE_DECODE_MS, _LARGE = 7.0, 1 / 26
_COLD_DECODING = 1.25  # times that of warm caches
_NOISE = 0.12  # the standard deviation of a service time's logarithm
_STALLS, _STALLED = 0.02, 1.6  # so many service times take so many times as long


def contended_workload(arrivals: Floats, seed: int) -> Workload:
    """As `workload`, with colder caches and the noise of a busy machine."""
    rng = np.random.default_rng([seed, 1])
    n = len(arrivals)
    large = rng.random(n) < _LARGE
    decode = np.where(large, _LARGE_DECODE_MS, rng.choice(_DECODE_MS, n)) * _COLD_DECODING
    stalled = np.where(rng.random(n) < _STALLS, _STALLED, 1.0)
    noise = np.exp(rng.normal(0.0, _NOISE, n)) * stalled
    return replace(workload(arrivals, seed), decode_ms=decode, noise=noise)


class _Thread:
    """Does its tasks one after the other, each of so many milliseconds of a core."""

    def __init__(self, core: int) -> None:
        self.core = core
        self._tasks: deque[tuple[float, Callable[[float], None]]] = deque()

    def post(self, cost_ms: float, then: Callable[[float], None]) -> None:
        """`then` gets the time at which the task ends."""
        self._tasks.append((cost_ms, then))

    @property
    def idle(self) -> bool:
        return not self._tasks

    def run(self, now: float) -> None:
        """One step from `now`."""
        left = _STEP_MS
        while self._tasks:
            cost, then = self._tasks.popleft()
            if cost > left:
                self._tasks.appendleft((cost - left, then))
                return
            left -= cost
            then(now + _STEP_MS - left)


@dataclass
class _Running:
    assignment: Assignment
    since: float
    left_ms: float


class _Machine:
    def __init__(self, family: Family, load: Workload) -> None:
        self._family, self._load = family, load
        self._dispatcher = Dispatcher(
            LatencyEstimates(family.profile(CORES)), CORES, max_length=256, max_bytes=1 << 40, preempts=True
        )
        self._expected = {
            decode: [Expected(*pair) for pair in zip(family.keys, *self._costs(decode), strict=True)]
            for decode in np.unique(load.decode_ms).tolist()
        }
        self._loop, self._callers = _Thread(0), _Thread(1)
        self._workers: list[_Running | None] = [None] * CORES  # each on the core of its number
        self._ahead: tuple[int, _Running] | None = None  # and the core of who is held up
        self.result = Result(requests=len(load.arrivals))

    def _costs(self, decode_ms: float) -> tuple[list[float], tuple[float, ...]]:
        return [decode_ms] * len(self._family.keys), self._family.inference_ms

    def run(self) -> Result:
        now, coming = 0.0, 0
        arrivals = self._load.arrivals.tolist()
        while coming < len(arrivals) or not self._idle():
            if self._idle():
                now = max(now, arrivals[coming])
            while coming < len(arrivals) and arrivals[coming] <= now:
                self._send(coming)
                coming += 1
            self._step(now)
            now += _STEP_MS
        return self.result

    def _idle(self) -> bool:
        workers = any(self._workers) or self._ahead is not None
        return self._loop.idle and self._callers.idle and not workers

    def _step(self, now: float) -> None:
        taken = [False] * CORES
        for thread in (self._loop, self._callers):
            if not thread.idle:
                thread.core = self._placed(thread.core, taken)
                taken[thread.core] = True
        left = [_SHARE if each else 1.0 for each in taken]
        if self._ahead is not None:
            core, ahead = self._ahead
            share = _SHARE_AHEAD_BESIDE if taken[core] else _SHARE_AHEAD
            ahead.left_ms -= _STEP_MS * share
            left[core] *= 1 - share
        for core, work in enumerate(self._workers):
            if work is not None:
                work.left_ms -= _STEP_MS * left[core]
        for thread in (self._loop, self._callers):
            thread.run(now)
        for core, work in enumerate(self._workers):
            if work is not None and work.left_ms <= 0:
                self._workers[core] = None
                self._complete(work, now + _STEP_MS)
                self._start(core, now + _STEP_MS)
        if self._ahead is not None and self._ahead[1].left_ms <= 0:
            done, self._ahead = self._ahead[1], None
            self._complete(done, now + _STEP_MS)

    def _placed(self, core: int, taken: Sequence[bool]) -> int:
        """The core where it last ran, unless that is in use and another is not, as the kernel does it."""
        others = [c for c in range(CORES) if c != core and not taken[c]]
        if taken[core]:
            return others[0]
        free = [c for c in others if self._workers[c] is None]
        return free[0] if free and self._workers[core] is not None else core

    def _send(self, which: int) -> None:
        arrived = math.nan

        def head(now: float) -> None:
            nonlocal arrived
            arrived = now
            self._loop.post(_READ_HEAD_MS, lambda _: self._loop.post(_READ_BODY_MS, body))

        def body(now: float) -> None:
            self._loop.post(_ADMIT_MS, lambda now: self._admit(which, arrived, now))

        self._callers.post(_SEND_MS, lambda _: self._loop.post(0.0, head))

    def _admit(self, which: int, arrived: float, now: float) -> None:
        budget, decode = self._load.budgets[which], self._load.decode_ms[which]
        job = Job(
            self._expected[decode],
            self._family.top1,
            arrived,
            arrived + budget,
            reject_late=True,
            payload=which,
        )
        if (
            self._dispatcher.idle_fastest_ms(job, now) > budget
            or self._dispatcher.admit(job, now) is not None
        ):
            self.result.refused += 1
            self._reply(_REFUSE_MS)
            return
        ahead = self._dispatcher.next_ahead()
        if ahead is not None:
            jobs = [work.assignment.job if work is not None else None for work in self._workers]
            self._ahead = jobs.index(ahead.ahead_of), self._running(ahead, now)
            return
        for core, work in enumerate(self._workers):
            if work is None:
                self._start(core, now)
                return

    def _start(self, core: int, now: float) -> None:
        while True:
            taken = self._dispatcher.next(now)
            if isinstance(taken, Job):
                self.result.expired += 1
                self._reply(_REFUSE_MS)
                continue
            if taken is not None:
                self._workers[core] = self._running(taken, now)
            return

    def _running(self, taken: Assignment, now: float) -> _Running:
        service = taken.expected.service_ms * self._load.noise[taken.job.payload]
        return _Running(taken, now, service + _HANDOVER_MS)

    def _complete(self, work: _Running, now: float) -> None:
        expected = work.assignment.job.expected[work.assignment.index]
        took = (now - work.since) / expected.service_ms
        self._dispatcher.finish(work.assignment, now, expected.inference_ms * took)
        self._loop.post(_ANSWER_MS, lambda answered: self._answer(work.assignment, now, answered))

    def _answer(self, done: Assignment, ended: float, now: float) -> None:
        self._dispatcher.answered(now - ended)
        self._reply(_WRITE_MS)
        lateness = now - (done.job.deadline or math.inf)
        self.result.lateness_ms.append(lateness)
        if lateness <= 0:
            self.result.on_time += 1
            self.result.accuracy += self._family.top1[done.index]
        else:
            self.result.late += 1

    def _reply(self, cost_ms: float) -> None:
        self._loop.post(cost_ms, lambda _: self._callers.post(_RECEIVE_MS, lambda _: None))


def simulate_contended(family: Family, load: Workload) -> Result:
    """Runs the dispatcher over the workload until all is answered."""
    return _Machine(family, load).run()


def compare(arrivals: Floats, seed: int) -> tuple[Result, Result]:
    """Ours, and the best static variant in hindsight."""
    load = contended_workload(arrivals, seed)
    statics = [simulate_contended(FAMILY.only(i), load) for i in range(len(FAMILY.keys))]
    return simulate_contended(FAMILY, load), max(statics, key=lambda result: result.accuracy)


def scenarios(seconds: float, seed: int, azure: Path | None) -> Iterator[tuple[str, Floats]]:
    """As bench.slo has them, with the capacity of the largest variant as the unit."""
    full = capacity_per_s(FAMILY, 0)
    for share in (0.2, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0):
        yield f"poisson {share:g}x", poisson(share * full, int(share * full * seconds), seed)
    yield "square wave 0.3x-2x", square_wave(0.3 * full, 2 * full, seconds, seed)
    yield "ramp to 3x", ramp(3 * full, seconds, seed)
    if azure is not None:
        yield "azure 1x", trace(azure, full, seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trace", type=Path, help="CSV of arrivals with the column TIMESTAMP")
    options = parser.parse_args(arguments)
    for name, arrivals in scenarios(options.seconds, options.seed, options.trace):
        ours, best = compare(arrivals, options.seed)
        ratio = ours.goodput_accuracy / best.goodput_accuracy
        found = {"to_best_static": round(ratio, 3), **ours.summary()}
        print(f"{name:<22}", "  ".join(f"{k} {v}" for k, v in found.items()), flush=True)


if __name__ == "__main__":
    main()
