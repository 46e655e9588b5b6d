"""How well budgets are kept under load, against every static variant: `python -m bench.slo`.

Replays open-loop traces over real photos against real servers: ours with the whole store; one with each
variant alone, which keeps the same queue and dropping (the static policy); and each variant pinned, first
come first served without dropping, as servers do that know no deadlines. Ratios are of one run.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench import simulator
from bench.open_loop import Answer, Request, replay
from bench.server import running_server
from model_store.store import ModelStore

FCFS_TRACES = ("2x", "ramp to 3x")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG pictures")
    parser.add_argument("--trace", type=Path, help="CSV of arrivals with the column TIMESTAMP")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.2, 0.5, 0.7, 1, 1.5, 2, 3])
    parser.add_argument("--output", type=Path, default=Path("docs/slo.json"))
    options = parser.parse_args(arguments)
    photos = [
        p.read_bytes() for p in sorted(options.photos.iterdir()) if p.suffix.lower() in (".jpg", ".jpeg")
    ]
    with tempfile.TemporaryDirectory() as folder:
        result = run(options, photos, Path(folder))
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {options.output}")


def run(options: argparse.Namespace, photos: list[bytes], folder: Path) -> dict[str, object]:
    top1 = published_top1(ModelStore(options.store))
    state = folder / "state"
    with running_server(options.store, state) as server:
        capacity = measure_capacity(server.base_url, max(top1, key=top1.__getitem__), photos)
    print(f"capacity of {max(top1, key=top1.__getitem__)}: {capacity:.0f} requests/s", flush=True)
    traces = dict(arrivals(capacity, options))
    rows: dict[str, dict[str, dict[str, float]]] = {name: {} for name in traces}
    with running_server(options.store, state) as server:
        for name, times in traces.items():
            rows[name]["ours"] = replayed(server.base_url, times, photos, top1, options.seed)
            print(f"{name:<20} ours {rows[name]['ours']}", flush=True)
        for variant in top1:
            for name in set(FCFS_TRACES) & set(traces):
                rows[name][f"fcfs {variant}"] = replayed(
                    server.base_url, traces[name], photos, top1, options.seed, pinned=variant
                )
    for variant in top1:
        with running_server(store_of_one(options.store, variant, folder), state) as server:
            for name, times in traces.items():
                rows[name][f"static {variant}"] = replayed(server.base_url, times, photos, top1, options.seed)
    for name, row in rows.items():
        print(f"{name:<20} {ratios(row)}", flush=True)
    return {
        "capacity_per_s": round(capacity, 1),
        "seconds": options.seconds,
        "rows": rows,
        "ratios": {name: ratios(row) for name, row in rows.items()},
    }


def published_top1(store: ModelStore) -> dict[str, float]:
    """Official top-1 by variant id, the smallest first."""
    manifests = [v.manifest for v in store.variants("imagenet") if v.manifest]
    return {m.id: m.official_top1 for m in sorted(manifests, key=lambda m: m.official_top1)}


def measure_capacity(base_url: str, variant: str, photos: list[bytes]) -> float:
    """Requests a second of one pinned variant, from the time that a backlog of 300 takes."""
    requests = [Request(0, 1e9, f"variant={variant}", photos[i % len(photos)]) for i in range(200)]
    answers = asyncio.run(replay(base_url, requests))
    return len(requests) / (max(a.total_ms for a in answers) / 1e3)


def arrivals(capacity: float, options: argparse.Namespace) -> Iterator[tuple[str, simulator.Floats]]:
    seconds, seed = options.seconds, options.seed
    for share in options.shares:
        rate = share * capacity
        yield f"{share:g}x", simulator.poisson(rate, int(rate * seconds), seed)
    yield "square 0.3x-2x", simulator.square_wave(0.3 * capacity, 2 * capacity, seconds, seed)
    yield "ramp to 3x", simulator.ramp(3 * capacity, seconds, seed)
    if options.trace:
        yield "azure 1x", simulator.trace(options.trace, capacity, seconds)


def replayed(
    base_url: str,
    times: simulator.Floats,
    photos: list[bytes],
    top1: dict[str, float],
    seed: int,
    *,
    pinned: str | None = None,
) -> dict[str, float]:
    """Without `pinned`, each request asks for its budget and wants no late answer."""
    rng = np.random.default_rng(seed)
    budgets = rng.choice(simulator.BUDGETS_MS, len(times))
    pictures = rng.integers(0, len(photos), len(times))
    requests = []
    for at, budget, picture in zip(times, budgets, pictures, strict=True):
        query = f"variant={pinned}" if pinned else f"latency_budget_ms={budget}&on_miss=reject"
        requests.append(Request(float(at), float(budget), f"{query}&top_k=1", photos[picture]))
    return summary(asyncio.run(replay(base_url, requests)), top1)


def summary(answers: list[Answer], top1: dict[str, float]) -> dict[str, float]:
    """On time is what the server's clock says, from the request's head to the answer."""
    served = [a for a in answers if a.status == 200]
    totals = np.array([_latency(a, "total_ms") for a in served])
    budgets = np.array([a.request.budget_ms for a in served])
    on_time = totals <= budgets
    accuracy = np.array([top1[_variant(a)] for a in served])
    refused = [a.total_ms for a in answers if a.status in (422, 429)]
    predicted = np.array([_latency(a, "predicted_ms") for a in served])
    bounds = np.array([_latency(a, "bound_ms") for a in served])
    late = totals - budgets
    admitted = len(served) + sum(a.status == 504 for a in answers)
    return {
        "requests": len(answers),
        "goodput_accuracy": round(float((accuracy * on_time).sum()) / len(answers), 4),
        "attainment": round(float(on_time.sum()) / len(answers), 4),
        "attainment_of_admitted": round(float(on_time.sum()) / max(1, admitted), 4),
        "refused": round(len(refused) / len(answers), 4),
        "refusal_ms_p50": round(float(np.median(refused)), 2) if refused else 0.0,
        "lateness_ms_p99": round(float(np.quantile(late, 0.99)), 2) if served else 0.0,
        "prediction_error": round(float(np.median(np.abs(predicted - totals) / totals)), 3)
        if served
        else 0.0,
        "within_bound": round(float((totals <= bounds).mean()), 3) if served else 0.0,
        "errors": sum(a.status in (0, 500, 503) for a in answers),
    }


def ratios(row: dict[str, dict[str, float]]) -> dict[str, float]:
    """Goodput accuracy of ours to the best static variant, to the best and the largest served FCFS."""
    ours = row["ours"]["goodput_accuracy"]
    static = [r["goodput_accuracy"] for name, r in row.items() if name.startswith("static ")]
    fcfs = [r["goodput_accuracy"] for name, r in row.items() if name.startswith("fcfs ")]
    found = {"to_best_static": round(ours / max(static), 3)}
    if fcfs:
        found["to_best_fcfs"] = round(ours / max(fcfs), 3)
        found["to_largest_fcfs"] = round(ours / max(fcfs[-1], 1e-3), 1)
    return found


def store_of_one(store: Path, variant: str, folder: Path) -> Path:
    """A copy of the store that holds one variant."""
    target = folder / variant
    (target / "imagenet").mkdir(parents=True)
    for path in (store / "imagenet").iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, target / "imagenet")
    shutil.copytree(store / "imagenet" / variant, target / "imagenet" / variant)
    return target


def _latency(answer: Answer, name: str) -> float:
    latency = answer.body["latency"]
    return float(latency[name]) if isinstance(latency, dict) else 0.0


def _variant(answer: Answer) -> str:
    variant = answer.body["variant"]
    return str(variant["id"]) if isinstance(variant, dict) else ""


if __name__ == "__main__":
    main()
