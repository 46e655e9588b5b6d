"""The file of trained weights: what it keeps, and what it refuses."""

import numpy as np
import pytest

from model_store.architecture import MobileNetSpec
from model_store.trained import EPSILON, load_bytes, save_bytes
from model_store.weights import WeightsError
from tests.model_store.training.networks import random_trained


def test_stored_and_loaded_it_is_the_same_to_half_precision() -> None:
    network = random_trained(0.25)
    data = save_bytes(network)
    found = load_bytes(data)
    assert (found.alpha, found.resolutions) == (0.25, (128, 160))
    for one, other in zip(found.convolutions, network.convolutions, strict=True):
        np.testing.assert_allclose(one.kernel, other.kernel, rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(one.variance, other.variance)
    assert save_bytes(found) == save_bytes(load_bytes(save_bytes(found)))
    assert save_bytes(network) == data


def test_each_resolution_has_its_own_statistics() -> None:
    network = random_trained(0.25)
    c = network.convolutions[3]
    for index, resolution in enumerate(network.resolutions):
        weights = network.at(resolution)
        assert weights.trained_resolution == resolution
        assert len(weights.layers) == len(MobileNetSpec(0.25, resolution).layers)
        scale = c.gamma / np.sqrt(c.variance[index] + EPSILON)
        np.testing.assert_allclose(
            weights.layers[3].bias, c.beta - c.mean[index] * scale, rtol=1e-5, atol=1e-6
        )
    with pytest.raises(WeightsError, match="not 224"):
        network.at(224)


def test_other_files_are_refused() -> None:
    data = save_bytes(random_trained(0.25))
    for broken in (b"", b"PK", data[: len(data) // 2], data.replace(b"classifier", b"classifies")):
        with pytest.raises(WeightsError):
            load_bytes(broken)
