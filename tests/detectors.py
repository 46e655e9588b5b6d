"""Random face detectors: real shapes, meaningless answers."""

import numpy as np

from model_store.ssd import SsdSpec
from model_store.ssd_weights import DetectorWeights, assemble
from model_store.weights import LayerWeights


def random_detector(seed: int = 0) -> DetectorWeights:
    """Kernels are scaled by their fan-in, so that activations stay in range."""
    rng = np.random.default_rng(seed)
    layers = {}
    for layer in SsdSpec(224).layers:
        inputs = 1 if layer.kind == "depthwise" else layer.in_channels
        shape = (layer.out_channels, inputs, layer.kernel, layer.kernel)
        kernel = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        bias = rng.standard_normal(layer.out_channels) * 0.1
        layers[layer.name] = LayerWeights(kernel.astype(np.float32), bias.astype(np.float32))
    return assemble(layers)
