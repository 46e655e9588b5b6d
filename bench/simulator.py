"""The service's own dispatcher, planner and estimates on a virtual clock: `python -m bench.simulator`.

Arrivals and noise come from a seed, costs from a device's profile; nothing of what decides is written
again here. A million requests take about a minute.
"""

import argparse
import heapq
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_store.architecture import ALPHAS, RESOLUTIONS, MobileNetSpec
from model_store.profile import DecodeCost, DeviceProfile, Quantiles
from model_store.sources import CHECKPOINTS_BY_NAME
from service.dispatch import Dispatcher
from service.jobs import Assignment, Job
from service.latency import ANSWER_MS, Expected, LatencyEstimates

# Of a core, for what runs ahead of a worker that has started; the worker has the rest.
_SHARE_AHEAD = 0.8
BUDGETS_MS = (15.0, 30.0, 60.0, 120.0, 250.0)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Family:
    """Variants, the most accurate first: keys, published top-1, and median inference in ms with one thread.

    `speedup` is of the first one when it may use the threads of all workers; None when it may not.
    """

    keys: tuple[str, ...]
    top1: tuple[float, ...]
    inference_ms: tuple[float, ...]
    speedup: float | None = None

    def plans(self, workers: int) -> list[tuple[str, float, float, int]]:
        """(key, top-1, inference in ms, threads) as the service orders them."""
        found = [(k, t, ms, 1) for k, t, ms in zip(self.keys, self.top1, self.inference_ms, strict=True)]
        if self.speedup is not None and workers > 1:
            key, top1, ms, _ = found[0]
            found.insert(1, (f"{key}/{workers} threads", top1, ms / self.speedup, workers))
        return found

    def profile(self, workers: int = 2) -> DeviceProfile:
        inference = {key: Quantiles(p50=ms, p95=ms * 1.1) for key, _, ms, _ in self.plans(workers)}
        cost = DecodeCost(base_ms=0, per_megapixel_ms=0, per_megabyte_ms=0)
        return DeviceProfile(device="simulated", inference=inference, decode={"JPEG/1": cost})

    def only(self, index: int) -> "Family":
        """A family of one: the static policy."""
        one = slice(index, index + 1)
        return Family(self.keys[one], self.top1[one], self.inference_ms[one])


def paper_family(full_ms: float = 10.0, prologue_ms: float = 1.5) -> Family:
    """All 16 fp32 variants: inference goes with mult-adds, plus a prologue with the pixels."""
    rows = []
    full = MobileNetSpec(1.0, 224).mult_adds
    for alpha in ALPHAS:
        for resolution in RESOLUTIONS:
            spec = MobileNetSpec(alpha, resolution)
            ms = (full_ms - prologue_ms) * (spec.mult_adds / full) ** 0.85 + prologue_ms * spec.rho**2
            top1 = CHECKPOINTS_BY_NAME[f"{alpha}_{resolution}"].top1 / 100
            rows.append((top1, f"{alpha}_{resolution}", ms))
    rows.sort(reverse=True)
    return Family(tuple(r[1] for r in rows), tuple(r[0] for r in rows), tuple(r[2] for r in rows))


@dataclass(frozen=True)
class Workload:
    """Requests in the order of their arrival; all arrays [n], milliseconds. `noise` multiplies service."""

    arrivals: Floats
    budgets: Floats
    decode_ms: Floats
    noise: Floats


def workload(arrivals: Floats, seed: int) -> Workload:
    """Budgets drawn from `BUDGETS_MS`, decoding of photos, and log-normal noise of service."""
    rng = np.random.default_rng(seed)
    n = len(arrivals)
    return Workload(
        arrivals=arrivals,
        budgets=rng.choice(BUDGETS_MS, n),
        decode_ms=rng.choice(np.array([1.2, 1.8, 2.4, 2.7, 3.3, 4.2]), n),
        noise=np.exp(rng.normal(0.0, 0.06, n)),
    )


def poisson(rate_per_s: float, n: int, seed: int) -> Floats:
    return np.cumsum(np.random.default_rng(seed).exponential(1e3 / rate_per_s, n))


def modulated(rate_per_s: Callable[[Floats], Floats], seconds: float, peak: float, seed: int) -> Floats:
    """Poisson arrivals whose rate varies with time (in seconds), by thinning from `peak`."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / peak, int(peak * seconds * 1.1) + 100))
    times = times[times < seconds]
    kept = rng.random(len(times)) < rate_per_s(times) / peak
    return times[kept] * 1e3


def square_wave(low: float, high: float, seconds: float, seed: int, period_s: float = 4.0) -> Floats:
    return modulated(lambda t: np.where(t % period_s < period_s / 2, low, high), seconds, high, seed)


def ramp(top: float, seconds: float, seed: int) -> Floats:
    """From nothing to `top` requests a second."""
    return modulated(lambda t: top * t / seconds, seconds, top, seed)


@dataclass
class Result:
    """What became of the requests. `lateness_ms` holds total time minus budget of each answer."""

    requests: int = 0
    on_time: int = 0
    late: int = 0
    refused: int = 0
    expired: int = 0
    accuracy: float = 0.0  # sum of top-1 over the answers on time
    lateness_ms: list[float] = field(default_factory=list)

    @property
    def goodput_accuracy(self) -> float:
        return self.accuracy / self.requests if self.requests else 0.0

    @property
    def attainment_of_admitted(self) -> float:
        admitted = self.on_time + self.late + self.expired
        return self.on_time / admitted if admitted else 1.0

    def summary(self) -> dict[str, float]:
        return {
            "goodput_accuracy": round(self.goodput_accuracy, 5),
            "attainment": round(self.on_time / max(1, self.requests), 5),
            "attainment_of_admitted": round(self.attainment_of_admitted, 5),
            "refused": round(self.refused / max(1, self.requests), 5),
        }


def simulate(family: Family, load: Workload, *, workers: int = 2, reject: bool = True) -> Result:
    """Runs the dispatcher over the workload until all is answered."""
    estimates = LatencyEstimates(family.profile(workers))
    plans = family.plans(workers)
    top1 = [accuracy for _, accuracy, _, _ in plans]
    dispatcher = Dispatcher(estimates, workers, max_length=256, max_bytes=1 << 40, preempts=True)
    decode_classes = {
        ms: [Expected(key, ms, inference, threads) for key, _, inference, threads in plans]
        for ms in np.unique(load.decode_ms).tolist()
    }
    result = Result(requests=len(load.arrivals))
    ends: list[tuple[float, int, Assignment, float]] = []
    noise = load.noise.tolist()
    serial = 0

    def dispatch(now: float) -> None:
        nonlocal serial
        while dispatcher.running < workers:
            taken = dispatcher.next(now)
            if taken is None:
                return
            if isinstance(taken, Job):
                result.expired += 1
                continue
            expected = taken.job.expected[taken.index]
            factor = noise[taken.job.payload]
            service = expected.service_ms * factor
            heapq.heappush(ends, (now + service, serial, taken, expected.inference_ms * factor))
            serial += 1

    def run_ahead(now: float) -> None:
        """One in a hurry has most of a core, and who is held up the rest."""
        nonlocal serial
        taken = dispatcher.next_ahead()
        assert taken is not None
        expected, factor = taken.expected, noise[taken.job.payload]
        service = expected.service_ms * factor
        for i, (end, number, run, inference) in enumerate(ends):
            if run.job is taken.ahead_of:
                ends[i] = (end + service, number, run, inference)
        ends.append((now + service / _SHARE_AHEAD, serial, taken, expected.inference_ms * factor))
        heapq.heapify(ends)
        serial += 1

    def complete() -> None:
        end, _, done, inference = heapq.heappop(ends)
        dispatcher.finish(done, end, inference)
        dispatcher.answered(ANSWER_MS)
        deadline = done.job.deadline
        if deadline is not None:
            result.lateness_ms.append(end + ANSWER_MS - deadline)
        if deadline is None or end + ANSWER_MS <= deadline:
            result.on_time += 1
            result.accuracy += top1[done.index]
        else:
            result.late += 1
        dispatch(end)

    rows = zip(load.arrivals.tolist(), load.budgets.tolist(), load.decode_ms.tolist(), strict=True)
    for i, (arrival, budget, decode) in enumerate(rows):
        while ends and ends[0][0] <= arrival:
            complete()
        deadline = arrival + budget if budget < np.inf else None
        job = Job(decode_classes[decode], top1, arrival, deadline, reject_late=reject, payload=i)
        if dispatcher.admit(job, arrival) is not None:
            result.refused += 1
        elif dispatcher.hurries:
            run_ahead(arrival)
        elif dispatcher.running < workers:
            dispatch(arrival)
    while ends:
        complete()
    return result


def first_come_first_served(family: Family, index: int, load: Workload, workers: int = 2) -> Result:
    """One static variant without dropping, as servers do that know no deadlines."""
    free = [0.0] * workers
    result = Result(requests=len(load.arrivals))
    rows = zip(load.arrivals, load.budgets, load.decode_ms, load.noise, strict=True)
    for arrival, budget, decode, noise in rows:
        start = max(arrival, heapq.heappop(free))
        end = start + (decode + family.inference_ms[index] + ANSWER_MS) * noise
        heapq.heappush(free, end)
        if end - arrival <= budget:
            result.on_time += 1
            result.accuracy += family.top1[index]
        else:
            result.late += 1
    return result


def capacity_per_s(family: Family, index: int, workers: int = 2, decode_ms: float = 2.6) -> float:
    """Requests a second that one static variant keeps up with."""
    return workers * 1e3 / (family.inference_ms[index] + decode_ms)


def trace(path: Path, rate_per_s: float, seconds: float) -> Floats:
    """Arrival times of a CSV with the column TIMESTAMP, scaled to a mean rate, cut to `seconds`."""
    text = path.read_text().splitlines()[1:]
    times = np.array([np.datetime64(line.strip().replace(" ", "T")[:26]) for line in text])
    since = (times - times[0]).astype("timedelta64[us]").astype(np.float64) / 1e3
    scaled: Floats = since * (len(since) / rate_per_s * 1e3 / since[-1])
    return np.asarray(scaled[scaled < seconds * 1e3])


def trace_part(path: Path, rate_per_s: float, seconds: float, part: int, parts: int) -> Floats:
    """Arrivals of one of so many parts of a trace, each behind the one before and `seconds` long; shorter
    where at that rate the trace is."""
    times = trace(path, rate_per_s, np.inf)
    part_ms = min(seconds * 1e3, times[-1] / parts)
    return np.asarray(times[times // part_ms == part] - part * part_ms)


def scenarios(family: Family, seconds: float, seed: int, azure: Path | None) -> Iterator[tuple[str, Floats]]:
    full = capacity_per_s(family, 0)
    for share in (0.2, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0):
        rate = share * full
        yield f"poisson {share:g}x", poisson(rate, int(rate * seconds), seed)
    yield "square wave 0.3x-2x", square_wave(0.3 * full, 2 * full, seconds, seed)
    yield "ramp to 3x", ramp(3 * full, seconds, seed)
    if azure is not None:
        yield "azure 1x", trace(azure, full, seconds)


def compare(family: Family, arrivals: Floats, seed: int) -> dict[str, float]:
    """Ours, the best static variant in hindsight, and the static ones first come first served."""
    load = workload(arrivals, seed)
    ours = simulate(family, load)
    statics = [simulate(family.only(i), load).goodput_accuracy for i in range(len(family.keys))]
    fcfs = [first_come_first_served(family, i, load).goodput_accuracy for i in range(len(family.keys))]
    best = max(statics)
    return {
        **ours.summary(),
        "best_static": round(best, 5),
        "to_best_static": round(ours.goodput_accuracy / best, 4),
        "to_best_fcfs": round(ours.goodput_accuracy / max(fcfs), 4),
        "to_largest_fcfs": round(ours.goodput_accuracy / max(fcfs[0], 1e-9), 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trace", type=Path, help="CSV of arrivals with the column TIMESTAMP")
    parser.add_argument("--million", action="store_true", help="only time a million requests")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    family = paper_family()
    if options.million:
        arrivals = poisson(1.5 * capacity_per_s(family, 0), 1_000_000, options.seed)
        load = workload(arrivals, options.seed)
        before = time.perf_counter()
        summary = simulate(family, load).summary()
        print(f"1,000,000 requests in {time.perf_counter() - before:.1f} s: {summary}")
        return
    rows = {}
    for name, arrivals in scenarios(family, options.seconds, options.seed, options.trace):
        rows[name] = compare(family, arrivals, options.seed)
        if not options.json:
            print(f"{name:<22}", "  ".join(f"{k} {v}" for k, v in rows[name].items()), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
