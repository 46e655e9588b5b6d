"""Random networks of any width for the head of the faces."""

import numpy as np

from model_store.architecture import MobileNetSpec
from model_store.faces import OUTPUTS
from model_store.trained import NormalizedLayer, TrainedNetwork
from model_store.weights import SYMMETRIC_SCALING, LayerWeights, NetworkWeights


def random_weights(alpha: float, seed: int = 0, classes: int = OUTPUTS) -> NetworkWeights:
    rng = np.random.default_rng(seed)
    layers = []
    for layer in MobileNetSpec(alpha, 128, classes).layers:
        inputs = 1 if layer.kind == "depthwise" else layer.in_channels
        shape = (layer.out_channels, inputs) + (() if layer.kind == "dense" else (layer.kernel,) * 2)
        deviation = np.sqrt(2 / (inputs * layer.kernel**2))
        kernel = rng.normal(0, deviation, shape).astype(np.float32)
        layers.append(LayerWeights(kernel, rng.normal(0.2, 0.2, layer.out_channels).astype(np.float32)))
    return NetworkWeights(alpha, tuple(layers), SYMMETRIC_SCALING, False, 224)


def random_trained(alpha: float, resolutions: tuple[int, ...] = (128, 160), seed: int = 0) -> TrainedNetwork:
    rng = np.random.default_rng(seed)
    weights = random_weights(alpha, seed)
    convolutions = []
    for layer in weights.layers[:-1]:
        channels = len(layer.bias)
        vectors = (len(resolutions), channels)
        convolutions.append(
            NormalizedLayer(
                layer.kernel,
                rng.uniform(0.6, 1.4, channels).astype(np.float32),
                layer.bias,
                rng.normal(0, 0.2, vectors).astype(np.float32),
                rng.uniform(0.5, 1.5, vectors).astype(np.float32),
            )
        )
    return TrainedNetwork(alpha, resolutions, tuple(convolutions), weights.layers[-1])
