"""One picture's inference time by execution provider, and by OpenVINO itself: `python -m bench.providers`.

The store's fp32 and int8 graphs on each provider that is installed and, where the package `openvino` is
there, compiled by it directly, on one thread. All take turns picture by picture, in one process; random
weights are as fast as trained ones. The time of the processor stands beside the time of the clock: on a
machine that does other work it is the one to compare.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.random_store import random_weights
from model_store.architecture import ALPHAS, RESOLUTIONS
from model_store.build import CALIBRATION_PICTURES
from model_store.calibration import drawn_pictures
from model_store.graph import build_classifier
from model_store.imaging import UInt8Array
from model_store.profile import device_name
from model_store.quantize import quantize
from model_store.quantized_graph import build_quantized_classifier
from model_store.runtime import CPU, OnnxSession, accelerators

_WARM_UP = 5
_DIRECT = "OpenVINO itself"
Run = Callable[[UInt8Array], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--alpha", type=float, choices=ALPHAS, action="append", help="default: 1.0")
    parser.add_argument("--resolution", type=int, choices=RESOLUTIONS, action="append", help="default: 224")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = [
        {"alpha": alpha, "resolution": size, "precision": precision, "ms": measure(model, size, options.runs)}
        for alpha in options.alpha or [1.0]
        for size in options.resolution or [224]
        for precision, model in graphs(alpha, size).items()
    ]
    if options.json:
        print(json.dumps({"device": device_name(), "results": results}, indent=2))
        return
    print(f"{device_name()}; one thread, medians in ms by the clock, and least in ms of the processor")
    for result in results:
        print(f"{result['alpha']}_{result['resolution']}_{result['precision']}")
        for name, (clock, processor) in result["ms"].items():
            print(f"  {name:<28} {clock:8.2f} {processor:8.2f}")


def graphs(alpha: float, resolution: int) -> dict[str, bytes]:
    weights = random_weights(alpha)
    quantized = quantize(weights, drawn_pictures(CALIBRATION_PICTURES, resolution))
    return {
        "fp32": build_classifier(weights),
        "int8": build_quantized_classifier(quantized),
    }


def measure(model: bytes, resolution: int, runs: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds by the clock, and least milliseconds of the processor, by name."""
    ways: dict[str, Run] = {CPU: OnnxSession(model).run}
    ways |= {p: OnnxSession(model, provider=p, resolution=resolution).run for p in accelerators()}
    if importlib.util.find_spec("openvino"):
        ways[_DIRECT] = _compiled(model, resolution)
    picture = np.random.default_rng(0).integers(0, 256, (1, resolution, resolution, 3), np.uint8)
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(_WARM_UP + runs):
        for name, way in ways.items():
            started = time.perf_counter(), time.process_time()
            way(picture)
            if run >= _WARM_UP:
                clock[name].append((time.perf_counter() - started[0]) * 1e3)
                processor[name].append((time.process_time() - started[1]) * 1e3)
    return {name: (statistics.median(clock[name]), min(processor[name])) for name in ways}


def _compiled(model: bytes, resolution: int) -> Run:
    """By OpenVINO without ONNX Runtime, with the properties that the provider gets."""
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    properties = {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": 1,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    network = core.read_model(model)
    network.reshape([-1, resolution, resolution, 3])
    request = core.compile_model(network, "CPU", properties).create_infer_request()
    return lambda picture: request.infer([picture])


if __name__ == "__main__":
    main()
