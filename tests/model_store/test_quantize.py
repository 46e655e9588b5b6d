"""What quantising promises: the same integers everywhere, close to the float network, no one's pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from model_store import build
from model_store.calibration import drawn_pictures
from model_store.graph import build_classifier, read_classifier
from model_store.quantize import PAIR_LIMIT, quantize
from model_store.quantized import Bytes, QuantizedNetwork, logits
from model_store.quantized_graph import build_quantized_classifier
from model_store.runtime import OnnxSession
from model_store.weights import InputScaling, LayerWeights, NetworkWeights, WeightsError
from tests.model_store.weight_files import write_frozen
from tests.networks import Floats, RandomNetwork, pictures


def weights_of(network: RandomNetwork, folder: Path) -> NetworkWeights:
    return build.load_weights(write_frozen(folder / "network.pb", network))[1]


@pytest.fixture(scope="module")
def weights(network_1001: RandomNetwork, tmp_path_factory: pytest.TempPathFactory) -> NetworkWeights:
    return weights_of(network_1001, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def quantized(weights: NetworkWeights) -> QuantizedNetwork:
    return quantize(weights, drawn_pictures(4, 128))


def probabilities(network: QuantizedNetwork, images: Bytes) -> Floats:
    found = logits(network, images).astype(np.float64)
    powers = np.exp(found - found.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    return np.asarray(shares[:, int(network.background) :], np.float32)


def test_the_runtime_computes_these_very_integers(quantized: QuantizedNetwork) -> None:
    """On processors that multiply bytes in 16 bits too: white and black pictures are the extremes."""
    images = np.concatenate([pictures(), np.full((1, 128, 128, 3), 255, np.uint8)])
    images = np.concatenate([images, np.zeros((1, 128, 128, 3), np.uint8)])
    found = OnnxSession(build_quantized_classifier(quantized)).run(images)
    assert np.abs(found - probabilities(quantized, images)).max() < 1e-5


@pytest.mark.parametrize("resolution", [224, 192, 160])
def test_every_resolution(resolution: int, quantized: QuantizedNetwork) -> None:
    images = pictures(1, resolution)
    found = OnnxSession(build_quantized_classifier(quantized)).run(images)
    assert np.abs(found - probabilities(quantized, images)).max() < 1e-5


def test_pictures_of_a_batch_do_not_change_one_another(quantized: QuantizedNetwork) -> None:
    session = OnnxSession(build_quantized_classifier(quantized))
    together = session.run(pictures())
    alone = np.concatenate([session.run(picture[np.newaxis]) for picture in pictures()])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_scores_are_close_to_the_float_networks(weights: NetworkWeights, quantized: QuantizedNetwork) -> None:
    """A random network is harder than a trained one: nothing in it was made for 8 bits."""
    expected = OnnxSession(build_classifier(weights)).run(pictures(8))
    found = probabilities(quantized, pictures(8))
    assert np.abs(found - expected).max() < 0.1
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.75


def test_scores_stay_float(quantized: QuantizedNetwork) -> None:
    """Quantised scores would be multiples of 1/255."""
    found = OnnxSession(build_quantized_classifier(quantized)).run(pictures())
    assert len(np.unique(found)) > 300


def test_no_float_between_the_convolutions(quantized: QuantizedNetwork, tmp_path: Path) -> None:
    """What ONNX Runtime makes of the graph, which is in standard operators that other runtimes read too."""
    model = build_quantized_classifier(quantized)
    assert {node.domain for node in onnx.load_from_string(model).graph.node} == {""}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # that it is for this processor only
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 27
    assert not {"Cast", "DequantizeLinear", "QuantizeLinear", "Conv", "Gemm"} & set(kinds)
    assert kinds.count("Transpose") <= 1  # of 1 x 1 maps, after pooling


def test_neighbours_fit_into_16_bits(quantized: QuantizedNetwork) -> None:
    """255 times the sum of two weights of one sign, along the axis that is summed."""
    stem = quantized.layers[0].kernel.astype(int)
    assert np.abs(stem).max() * 2 <= 255
    for values in (np.maximum(stem, 0), np.maximum(-stem, 0)):
        assert np.sort(values.reshape(len(stem), -1), axis=1)[:, -2:].sum(axis=1).max() <= PAIR_LIMIT
    for weights in quantized.layers[2::2]:  # pointwise; the last one is the classifier
        rows = weights.kernel.astype(int).reshape(len(weights.kernel), -1)
        for values in (np.maximum(rows, 0), np.maximum(-rows, 0)):
            assert (values[:, 0::2] + values[:, 1::2]).max() <= PAIR_LIMIT
    assert np.iinfo(np.int16).max >= 255 * PAIR_LIMIT


@pytest.mark.parametrize("zero", [120.3, 128.0, 127.5])
def test_any_zero_of_the_pixels_is_taken_up(zero: float, weights: NetworkWeights) -> None:
    """The bytes' zero is whole; what is missing goes into the first bias."""
    moved = replace(weights, scaling=InputScaling(1 / 110, zero))
    quantized = quantize(moved, drawn_pictures(4, 128))
    assert quantized.activations[0].zero == round(zero)
    expected = OnnxSession(build_classifier(moved)).run(pictures(8))
    assert np.abs(probabilities(quantized, pictures(8)) - expected).max() < 0.1


def test_channels_without_weights_keep_their_bias(weights: NetworkWeights) -> None:
    """Trained networks have dead channels: constants, however large beside what is left of the weights."""
    layers = list(weights.layers)
    for index, rest in ((0, 0.0), (5, 1e-30), (6, 1e-9), (7, 1e-43)):
        kernel, bias = layers[index].kernel.copy(), layers[index].bias.copy()
        kernel[0] *= np.float32(rest)
        bias[0] = 3.0
        layers[index] = LayerWeights(kernel, bias)
    kernel, bias = layers[8].kernel.copy(), layers[8].bias.copy()
    kernel[0], bias[0] = 1e-44, 0  # whose step no normal number holds
    layers[8] = LayerWeights(kernel, bias)
    dead = replace(weights, layers=tuple(layers))
    quantized = quantize(dead, drawn_pictures(2, 128))
    found = OnnxSession(build_quantized_classifier(quantized)).run(pictures())
    assert np.abs(found - probabilities(quantized, pictures())).max() < 1e-5
    assert all((layer.scale >= np.finfo(np.float32).tiny).all() for layer in quantized.layers)
    for index in (0, 5, 6, 7):
        step = quantized.activations[index].scale * quantized.layers[index].scale[0]
        assert quantized.layers[index].bias[0] * step == pytest.approx(3, abs=0.01)


def test_weights_come_back_from_the_stores_model(weights: NetworkWeights) -> None:
    model = build_classifier(weights)
    read = read_classifier(model)
    assert (read.alpha, read.background, read.classes) == (0.25, True, 1000)
    assert build_classifier(read) == model


def test_a_model_from_elsewhere_has_no_weights_to_read(quantized: QuantizedNetwork) -> None:
    with pytest.raises(WeightsError, match="not made by this program"):
        read_classifier(build_quantized_classifier(quantized))


def test_drawn_pictures_are_the_same_every_time_and_no_two_alike() -> None:
    drawn = drawn_pictures(3, 128)
    np.testing.assert_array_equal(drawn, drawn_pictures(3, 128))
    assert drawn.shape == (3, 128, 128, 3)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (drawn[one] != drawn[other]).mean() > 0.5
    assert drawn.std() > 30


def test_the_same_weights_give_the_same_bytes(weights: NetworkWeights, quantized: QuantizedNetwork) -> None:
    again = quantize(weights, drawn_pictures(4, 128))
    assert build_quantized_classifier(again) == build_quantized_classifier(quantized)
