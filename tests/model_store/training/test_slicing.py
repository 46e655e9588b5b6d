"""A narrower network of the channels that matter."""

from dataclasses import replace

import numpy as np
import pytest

from model_store.architecture import MobileNetSpec
from model_store.training.slicing import slice_width
from model_store.weights import LayerWeights, assemble
from tests.model_store.training.networks import random_weights


@pytest.mark.parametrize("alpha", [0.75, 0.5, 0.25])
def test_a_slice_is_a_network_of_that_width(alpha: float) -> None:
    narrow = slice_width(random_weights(1.0), alpha)
    names = [layer.name for layer in MobileNetSpec(alpha, 224).layers]
    checked = assemble(
        dict(zip(names, narrow.layers, strict=True)), classes=(narrow.classes,), trained_resolution=None
    )
    assert checked.alpha == narrow.alpha == alpha


def test_the_whole_width_is_the_network_itself() -> None:
    weights = random_weights(0.25)
    for found, expected in zip(slice_width(weights, 0.25).layers, weights.layers, strict=True):
        np.testing.assert_array_equal(found.kernel, expected.kernel)
        np.testing.assert_array_equal(found.bias, expected.bias)


def test_channels_that_do_nothing_go_first() -> None:
    """A wide network, half of whose channels lead nowhere, is the narrow one that it was made of."""
    narrow, wide = random_weights(0.25), MobileNetSpec(0.5, 224, 140).layers
    rng = np.random.default_rng(3)
    read = np.arange(3)
    layers = []
    for layer, tensors in zip(wide, narrow.layers, strict=True):
        shape: tuple[int, ...] = (layer.out_channels, 1 if layer.kind == "depthwise" else layer.in_channels)
        shape += tensors.kernel.shape[2:]
        kernel, bias = np.zeros(shape, np.float32), np.zeros(layer.out_channels, np.float32)
        if layer.kind == "dense":
            kernel[:, read], bias = tensors.kernel, tensors.bias
        elif layer.kind == "depthwise":
            kernel[read], bias[read] = tensors.kernel, tensors.bias
        else:
            written = np.sort(rng.permutation(layer.out_channels)[: len(tensors.bias)])
            kernel[np.ix_(written, read)], bias[written] = tensors.kernel, tensors.bias
            read = written
        layers.append(LayerWeights(kernel, bias))
    found = slice_width(replace(narrow, alpha=0.5, layers=tuple(layers)), 0.25)
    for one, other in zip(found.layers, narrow.layers, strict=True):
        np.testing.assert_array_equal(one.kernel, other.kernel)
        np.testing.assert_array_equal(one.bias, other.bias)
