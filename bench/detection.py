"""How many faces each detector finds, and how long it takes: `python -m bench.detection --store DIR`.

On compositions (`compositions.py`), through the decoding that serves, beside what face-api's own JavaScript
finds in the same pictures (tests/golden/faces). A face is found when a box covers it with an intersection
over union of half or more; every other box is a false one. `--latency` times each detector, on one thread,
in turns with MobileNet 1.0_224 in fp32. `--hard` is for faces that are small, turned, covered or many.

But for `--latency` it needs `--shared FOLDER` with images/photos, faces/celeba.zip and faces/utkface.zip.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from bench.compositions import Box, Composition, Condition, Material, as_png
from bench.random_store import random_weights
from model_store.detect import Face, find_faces
from model_store.graph import build_classifier
from model_store.photo import Photo
from model_store.runtime import OnnxDetector, OnnxSession, Runnable
from model_store.store import ModelStore

ROOT = Path(__file__).resolve().parents[1]
ANSWERS = ROOT / "tests" / "golden" / "faces" / "answers.json"
TASK = "face-detection"
_SAME = 0.5  # intersection over union
_WARM_UP = 3
CONDITIONS = {
    "as above": Condition(),
    "24 to 48 pixels high": Condition(smallest=24, largest=48),
    "turned by 15 degrees": Condition(degrees=15),
    "turned by 30 degrees": Condition(degrees=30),
    "turned by 45 degrees": Condition(degrees=45),
    "on its side": Condition(degrees=90),
    "lowest third covered": Condition(hidden=1 / 3),
    "lower half covered": Condition(hidden=1 / 2),
    "up to 16 faces": Condition(most_faces=16, largest=120),
}


class Rectangle(Protocol):
    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...
    @property
    def width(self) -> float: ...
    @property
    def height(self) -> float: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--pictures", type=int, default=500, help="compositions, at most 500")
    parser.add_argument("--hard", action="store_true", help="faces that are small, turned, covered, many")
    parser.add_argument("--latency", action="store_true", help="times in place of faces")
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    store = ModelStore(options.store)
    if options.latency:
        _print_latencies(store, options.runs)
    elif options.hard:
        _print_hard(store, options.shared, options.pictures)
    else:
        _print_recall(store, options.shared, options.pictures)


def overlap(one: Rectangle, other: Rectangle) -> float:
    """Intersection over union."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    common = max(width, 0.0) * max(height, 0.0)
    return common / (one.width * one.height + other.width * other.height - common)


def count(found: Sequence[Face], faces: Sequence[Box]) -> tuple[int, int]:
    """(faces found, false boxes); each box counts for one face, the surest first."""
    left = list(faces)
    for face in found:
        best = max(left, key=partial(overlap, face), default=None)
        if best is not None and overlap(face, best) >= _SAME:
            left.remove(best)
    hits = len(faces) - len(left)
    return hits, len(found) - hits


def _print_recall(store: ModelStore, shared: Path, pictures: int) -> None:
    material = Material(shared)
    compositions = [material.compose(seed) for seed in range(pictures)]
    encoded = [as_png(c.pixels) for c in compositions]
    faces = sum(len(c.faces) for c in compositions)
    print(f"{len(compositions)} compositions, {faces} faces")
    answers = json.loads(ANSWERS.read_text())["pictures"]
    _print_row(
        "face-api.js, 512", compositions, [[Face(*f) for f in answers[c.name]["faces"]] for c in compositions]
    )
    for variant in _variants(store):
        detector = OnnxDetector(store.open(TASK, variant)[1])
        found = [find_faces(detector, Photo(data, detector.resolution)) for data in encoded]
        _print_row(variant, compositions, found)


def _print_hard(store: ModelStore, shared: Path, pictures: int) -> None:
    """Recall of the int8 detectors under each condition."""
    material = Material(shared)
    names = [name for name in _variants(store) if name.endswith("int8")]
    detectors = [OnnxDetector(store.open(TASK, name)[1]) for name in names]
    print(f"{'recall, %':<24}", *(f"{d.resolution:>6}" for d in detectors))
    for title, condition in CONDITIONS.items():
        compositions = [material.compose(seed, condition) for seed in range(pictures)]
        encoded = [as_png(c.pixels) for c in compositions]
        row = []
        for detector in detectors:
            found = [find_faces(detector, Photo(data, detector.resolution)) for data in encoded]
            hits = sum(count(f, c.faces)[0] for f, c in zip(found, compositions, strict=True))
            row.append(100 * hits / sum(len(c.faces) for c in compositions))
        print(f"{title:<24}", *(f"{recall:6.1f}" for recall in row), flush=True)


def _print_row(name: str, compositions: list[Composition], found: list[list[Face]]) -> None:
    counts = np.array([count(f, c.faces) for f, c in zip(found, compositions, strict=True)])
    hits, false = counts.sum(axis=0)
    faces = sum(len(c.faces) for c in compositions)
    print(f"{name:<32} recall {100 * hits / faces:.1f} %  false boxes {false}", flush=True)


def _print_latencies(store: ModelStore, runs: int) -> None:
    models: dict[str, tuple[Runnable, int]] = {
        "mobilenet_v1_1.0_224_fp32": (OnnxSession(build_classifier(random_weights(1.0))), 224)
    }
    for variant in _variants(store):
        detector = OnnxDetector(store.open(TASK, variant)[1])
        models[variant] = detector, detector.resolution
    times: dict[str, list[float]] = {name: [] for name in models}
    rng = np.random.default_rng(0)
    pictures = {size: rng.integers(0, 256, (1, size, size, 3), np.uint8) for _, size in models.values()}
    for run in range(_WARM_UP + runs):
        for name, (model, size) in models.items():
            started = time.perf_counter()
            model.run(pictures[size])
            if run >= _WARM_UP:
                times[name].append((time.perf_counter() - started) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    unit = medians["mobilenet_v1_1.0_224_fp32"]
    for name, ms in medians.items():
        print(f"{name:<32} {ms:6.1f} ms  {ms / unit:.2f}")


def _variants(store: ModelStore) -> list[str]:
    """The largest input first, fp32 before int8."""
    found = [v.manifest for v in store.variants(TASK) if v.manifest]
    return [m.id for m in sorted(found, key=lambda m: (-m.resolution, m.precision))]


if __name__ == "__main__":
    main()
