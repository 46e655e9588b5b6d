"""One picture's inference time of each graph, side by side: `python -m bench.inference`.

The store's fp32 and int8 graphs, and beside them the plain ones (`plain_graphs.py`), in one process on one
thread. The graphs take turns picture by picture, so that whatever else the machine does meets all alike.
Random weights are as fast as trained ones.
"""

import argparse
import json
import statistics
import time

import numpy as np

from bench.plain_graphs import plain_float, plain_static
from bench.random_store import random_weights
from model_store import device
from model_store.architecture import ALPHAS, RESOLUTIONS
from model_store.build import CALIBRATION_PICTURES
from model_store.calibration import drawn_pictures
from model_store.graph import build_classifier
from model_store.quantize import quantize
from model_store.quantized_graph import build_quantized_classifier
from model_store.runtime import RUNTIME_VERSION, OnnxSession

_WARM_UP = 5
_RATIOS = (
    ("fp32 over plain fp32", "plain_fp32", "fp32"),
    ("int8 over fp32", "fp32", "int8"),
    ("int8 over plain static int8", "plain_int8", "int8"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--alpha", type=float, choices=ALPHAS, action="append", help="default: 1.0")
    parser.add_argument("--resolution", type=int, choices=RESOLUTIONS, action="append", help="default: 224")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shapes = [(a, r) for a in options.alpha or [1.0] for r in options.resolution or [224]]
    results = [
        {"alpha": alpha, "resolution": size, **measure(graphs(alpha, size), size, options.runs)}
        for alpha, size in shapes
    ]
    if options.json:
        report = {"device": device.cpu_model(), "runtime": RUNTIME_VERSION, "shapes": results}
        print(json.dumps(report, indent=2))
        return
    print(f"{device.cpu_model()}, {RUNTIME_VERSION}; one thread, medians in ms")
    for result in results:
        times = "  ".join(
            f"{name} {result[name]:.2f}" for name in ("plain_fp32", "fp32", "plain_int8", "int8")
        )
        print(f"{result['alpha']}_{result['resolution']}  {times}")
        for title, slower, faster in _RATIOS:
            print(f"  {title:<28} {result[slower] / result[faster]:.2f}x")


def graphs(alpha: float, resolution: int) -> dict[str, bytes]:
    """Four models of the same network."""
    weights = random_weights(alpha)
    plain = plain_float(weights, resolution)
    quantized = quantize(weights, drawn_pictures(CALIBRATION_PICTURES, resolution))
    return {
        "plain_fp32": plain,
        "fp32": build_classifier(weights),
        "plain_int8": plain_static(plain, resolution),
        "int8": build_quantized_classifier(quantized),
    }


def measure(models: dict[str, bytes], resolution: int, runs: int) -> dict[str, float]:
    """Median milliseconds by name."""
    sessions = {name: OnnxSession(model) for name, model in models.items()}
    picture = np.random.default_rng(0).integers(0, 256, (1, resolution, resolution, 3), np.uint8)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for run in range(_WARM_UP + runs):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(picture)
            if run >= _WARM_UP:
                times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
