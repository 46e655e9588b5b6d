"""How well budgets are kept under load: `python -m bench.slo --store STORE --photos FOLDER`.

Replays open-loop traces over real photos against a real server, one after the other for each trace: our
policy; every variant pinned with the same deadline queue and dropping (the static policies); and every
variant pinned without a budget, first come first served without dropping, as servers do that know no
deadlines. Beside them stands what a clairvoyant could reach. Writes JSON, a table and a plot. As it comes it
takes 27 minutes.

With `--base-url` only our policy is replayed, against a server that runs already.
"""

import argparse
import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import uvloop

from bench import simulator, slo_report
from bench.clairvoyant import upper_bound
from bench.machine import machine
from bench.open_loop import Answer, Request, replay
from bench.server import running_server
from bench.slo_summary import Rows, best_static, ratios, standard_error, summary
from model_store.device import usable_cpus
from model_store.imaging import decode
from model_store.manifest import Preprocessing, parse_variant_id
from model_store.ranking import ASSUMED_LOSS
from model_store.runtime import RUNTIME_VERSION
from model_store.sources import CHECKPOINTS_BY_NAME
from service.latency import ANSWER_MS

_WAVE, _RAMP, _AZURE = "wave 0.3x-2x", "ramp to 3x", "Azure trace 1x"
_LOADS = ("0.2x", "0.5x", "0.7x", "1x", "1.5x", "2x", "3x", "wave", "ramp", "azure")
_NAMES = {"wave": _WAVE, "ramp": _RAMP, "azure": _AZURE}  # else as asked for
_MODERATE = ("0.2x", "0.5x", "0.7x", "1x")  # what does not overload the largest variant has no FCFS rows
_FLOOD = "flood"  # has its turn beside the policies
# Rounds of a load that varies last so many times as long: a queue that grows needs time to show it.
_VARYING, _LONGER = (_WAVE, _RAMP, _AZURE), 4
# Requests of a round: of a thousand one late answer is 0.1 %, the most that is wanted of a light load.
_FEWEST = 350


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--store", type=Path, help="starts a server over it")
    target.add_argument("--base-url", help="a server that runs already: our policy only")
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG pictures")
    parser.add_argument("--trace", type=Path, help="CSV of arrivals with the column TIMESTAMP")
    parser.add_argument(
        "--seconds", type=float, default=3, help="of each round of a steady load, longer if light"
    )
    parser.add_argument("--rounds", type=int, default=3, help="in each all policies take turns")
    parser.add_argument(
        "--loads", nargs="+", choices=_LOADS, help="by what the largest variant keeps up with; default: all"
    )
    parser.add_argument("--recovery-seconds", type=float, default=60, help="of overload, at the end")
    parser.add_argument("--output", type=Path, default=Path("docs/slo.json"), help="beside it: .md, .svg")
    options = parser.parse_args(arguments)
    if options.loads is None:
        options.loads = [load for load in _LOADS if load != "azure" or options.trace]
    elif "azure" in options.loads and options.trace is None:
        parser.error("the load azure needs --trace, a CSV of arrivals with the column TIMESTAMP")
    paths = sorted(p for p in options.photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    photos = [p.read_bytes() for p in paths]
    if options.base_url:
        result = Bench(options.base_url, photos, options).run()
    else:
        with contextlib.ExitStack() as stack:
            state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            # As the peers do, without a budget the queue takes all that comes.
            server = stack.enter_context(running_server(options.store, state, queue_length="100000"))
            result = Bench(server.base_url, photos, options).run(policies=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    written = slo_report.write(result, options.output)
    print(f"written: {', '.join(str(path) for path in [options.output, *written])}")


class Bench:
    """One run against one server."""

    def __init__(self, base_url: str, photos: list[bytes], options: argparse.Namespace) -> None:
        self._base_url, self._photos, self._options = base_url, photos, options
        listed = httpx.get(f"{base_url}/v1/variants?task=imagenet").json()["variants"]
        loaded = [v for v in listed if v["loaded"]]
        self._top1 = {v["id"]: published_top1(v["id"]) for v in loaded}
        self._inference_ms: dict[str, float] = {v["id"]: v["latency_ms"]["p50"] for v in loaded}
        self._variants = sorted(self._top1, key=self._top1.__getitem__, reverse=True)
        self._beside: dict[str, dict[str, float]] = {}  # what floods showed in the turns of each trace

    def run(self, *, policies: bool = False) -> dict[str, object]:
        capacity = {v: max(self._flood(v) for _ in range(3)) for v in self._variants}
        largest, smallest = capacity[self._variants[0]], capacity[self._variants[-1]]
        print(f"capacity: largest {largest:.0f}, smallest variant {smallest:.0f} requests/s", flush=True)
        idle_ms = self._idle_ms()
        rows = {name: self._row(name, largest, idle_ms, policies) for name in self._traces()}
        recovery_ms = self._recovery_ms(2 * smallest, self._options.recovery_seconds)
        print(f"after the overload the first answer in time came after {recovery_ms:.0f} ms", flush=True)
        return {
            "device": f"{machine()}, {RUNTIME_VERSION}",
            "variants": {v: {"top1": self._top1[v], "p50_ms": self._inference_ms[v]} for v in self._variants},
            "capacity_per_s": {v: round(c, 1) for v, c in capacity.items()},
            "capacity_beside_per_s": self._beside,
            "seconds": self._options.seconds,
            "rounds": self._options.rounds,
            "rows": rows,
            "ratios": {name: ratios(row) for name, row in rows.items()},
            "recovery_ms": round(recovery_ms, 1),
        }

    def _traces(self) -> list[str]:
        return [_NAMES.get(load, load) for load in self._options.loads]

    def _arrivals(self, name: str, capacity: float, seed: int) -> simulator.Floats:
        period_s = self._options.seconds
        seconds = _LONGER * period_s if name in _VARYING else period_s
        if name == _WAVE:
            return simulator.square_wave(0.3 * capacity, 2 * capacity, seconds, seed, period_s=period_s)
        if name == _RAMP:
            return simulator.ramp(3 * capacity, seconds, seed)
        if name == _AZURE:
            return simulator.trace_part(self._options.trace, capacity, seconds, seed, self._rounds(name))
        rate = float(name.removesuffix("x")) * capacity
        return simulator.poisson(rate, max(_FEWEST, int(rate * seconds)), seed)

    def _row(self, name: str, capacity: float, idle_ms: simulator.Floats, policies: bool) -> Rows:
        """All policies on one trace. They take turns in short rounds, each with arrivals of its own: machines
        that others use too drift, and what drifts shall not favour one. So the floods that tell what a
        clairvoyant could reach take their turn too."""
        wanted: dict[str, tuple[str | None, bool]] = {"ours": (None, True)}
        if policies:
            wanted |= {f"static {v}": (v, True) for v in self._variants}
            if name not in _MODERATE:
                wanted |= {f"fcfs {v}": (v, False) for v in self._variants}
        turns = list(wanted)
        turns.insert(max(1, len(turns) - 1), _FLOOD)  # what it leaves in the estimates is not for ours
        answers: dict[str, list[list[Answer]]] = {policy: [] for policy in wanted}  # of each round
        floods, rounds = [], [self._arrivals(name, capacity, seed) for seed in range(self._rounds(name))]
        rounds = [times for times in rounds if len(times)]  # nobody comes in some parts of a trace
        for seed, times in enumerate(rounds):
            start = seed % len(turns)  # each in turn is the first
            for turn in turns[start:] + turns[:start]:
                if turn == _FLOOD:
                    floods.append([self._flood(v) for v in self._variants])
                else:
                    pinned, budgets = wanted[turn]
                    answers[turn].append(self._replayed(times, seed, pinned=pinned, budgets=budgets))
        most = np.max(floods, axis=0)
        # Under load all CPUs compute, and read and answer too: a picture takes of them what a flood shows.
        loaded_ms = idle_ms * usable_cpus() * 1e3 / most / idle_ms.mean(axis=0)
        bounds = [self._clairvoyant(times, idle_ms, loaded_ms, seed) for seed, times in enumerate(rounds)]
        row = {
            policy: summary(list(itertools.chain(*found)), self._top1) for policy, found in answers.items()
        }
        row["ours"]["clairvoyant"] = round(float(np.mean(bounds)), 4)
        if policies and len(rounds) > 1:
            row["ours"]["static_error"] = standard_error(
                answers["ours"], answers[best_static(row)], self._top1
            )
        self._beside[name] = dict(zip(self._variants, most.round(1).tolist(), strict=True))
        print(f"{name:<15} {ratios(row)} {row['ours']} {self._beside[name]}", flush=True)
        return row

    def _rounds(self, name: str) -> int:
        """One less where they are longer, but one more where each is another part of the trace: of the Azure
        trace two rounds with the same policy differ by a third."""
        rounds: int = self._options.rounds
        if name == _AZURE:
            return rounds + 1
        return max(1, rounds - 1) if name in _VARYING else rounds

    def _draw(self, times: simulator.Floats, seed: int) -> tuple[simulator.Floats, list[int]]:
        """A budget and a picture for each arrival; the same for every policy."""
        rng = np.random.default_rng(seed)
        budgets = rng.choice(simulator.BUDGETS_MS, len(times))
        return budgets, rng.integers(0, len(self._photos), len(times)).tolist()

    def _replayed(
        self, times: simulator.Floats, seed: int, *, pinned: str | None = None, budgets: bool = True
    ) -> list[Answer]:
        """Each request asks for its budget and wants no late answer, unless `budgets` is false."""
        drawn, pictures = self._draw(times, seed)
        requests = []
        for at, budget, picture in zip(times, drawn, pictures, strict=True):
            wishes = [f"latency_budget_ms={budget}", "on_miss=reject"] if budgets else []
            query = "&".join([*wishes, *([f"variant={pinned}"] if pinned else []), "top_k=1"])
            requests.append(Request(float(at), float(budget), query, self._photos[picture]))
        return uvloop.run(replay(self._base_url, requests))

    def _flood(self, variant: str) -> float:
        """Requests a second of one variant, from the time that 200 requests at once take."""
        n = len(self._photos)
        requests = [Request(0, 1e9, f"variant={variant}", self._photos[i % n]) for i in range(200)]
        answers = uvloop.run(replay(self._base_url, requests))
        return len(requests) / (max(a.total_ms for a in answers) / 1e3)

    def _idle_ms(self) -> simulator.Floats:
        """[photos, variants]: what each photo takes on an idle device, by the shortest of three decodings and
        the profile."""
        sizes = [parse_variant_id(v).resolution for v in self._variants]
        times = np.empty((len(self._photos), len(sizes)))
        for i, photo in enumerate(self._photos):
            for j, size in enumerate(sizes):
                times[i, j] = min(_timed_decode(photo, size) for _ in range(3))
        return np.asarray(times + np.array([self._inference_ms[v] for v in self._variants]))

    def _clairvoyant(
        self, times: simulator.Floats, idle_ms: simulator.Floats, loaded_ms: simulator.Floats, seed: int
    ) -> float:
        budgets, pictures = self._draw(times, seed)
        top1 = np.array([self._top1[v] for v in self._variants])
        return upper_bound(
            times, budgets - ANSWER_MS, idle_ms[pictures], loaded_ms[pictures], top1, workers=usable_cpus()
        )

    def _recovery_ms(self, rate: float, seconds: float) -> float:
        """After an overload: how long until a request on the idle server is answered in time."""
        self._replayed(simulator.poisson(rate, int(rate * seconds), 0), 0)
        ended = time.perf_counter()
        with httpx.Client(base_url=self._base_url) as http:
            while True:
                url = "/v1/classify?latency_budget_ms=60&on_miss=reject"
                answer = http.post(url, content=self._photos[0])
                if answer.status_code == 200 and answer.json()["latency"]["met"]:
                    return (time.perf_counter() - ended) * 1e3


def published_top1(variant: str) -> float:
    """Of the official fp32 checkpoint of its width and resolution; less what quantising loses at most."""
    shape = parse_variant_id(variant)
    top1 = CHECKPOINTS_BY_NAME[f"{shape.alpha}_{shape.resolution}"].top1 / 100
    return top1 - (ASSUMED_LOSS if shape.precision == "int8" else 0.0)


def _timed_decode(photo: bytes, size: int) -> float:
    before = time.perf_counter()
    decode(photo, size, Preprocessing())
    return (time.perf_counter() - before) * 1e3


if __name__ == "__main__":
    main()
