"""Model stores of random MobileNets for benchmarks and tests: real cost, meaningless answers."""

from pathlib import Path

import numpy as np

from model_store import build, tasks
from model_store.architecture import MobileNetSpec
from model_store.store import ModelStore
from model_store.weights import SYMMETRIC_SCALING, LayerWeights, NetworkWeights

SHAPES: tuple[tuple[float, int], ...] = ((1.0, 224), (0.5, 160), (0.25, 128))
IDS = [f"mobilenet_v1_{alpha}_{resolution}_fp32" for alpha, resolution in SHAPES]


def random_weights(alpha: float, seed: int = 0) -> NetworkWeights:
    """A network whose activations stay in range: kernels scaled by their fan-in."""
    rng = np.random.default_rng(seed)
    layers = []
    for layer in MobileNetSpec(alpha, 224, 1000).layers:
        shape: tuple[int, ...] = (layer.out_channels, layer.in_channels)
        if layer.kind == "depthwise":
            shape = (layer.out_channels, 1)
        if layer.kind != "dense":
            shape += (layer.kernel, layer.kernel)
        scale = np.sqrt(2 / np.prod(shape[1:]))
        kernel = (rng.standard_normal(shape) * scale).astype(np.float32)
        bias = (rng.standard_normal(layer.out_channels) * 0.1).astype(np.float32)
        layers.append(LayerWeights(kernel, bias))
    return NetworkWeights(alpha, tuple(layers), SYMMETRIC_SCALING, False, 224)


def fill(root: Path, shapes: tuple[tuple[float, int], ...] = SHAPES, *, alike: bool = True) -> ModelStore:
    """The resolutions of an alpha have the same weights, unless they are not to be `alike`."""
    store = ModelStore(root)
    task = tasks.ensure_task(store, "imagenet")
    provenance = build.Provenance("random", "bench/random_store.py", "0" * 64, "none")
    for alpha, resolution in shapes:
        weights = random_weights(alpha, 0 if alike else resolution)
        build.install_network(store, task, weights, provenance, resolution=resolution)
    return store
