"""One random network in every published format: the same weights, and the reference's answers."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from model_store import build, tasks
from model_store.graph import build_classifier
from model_store.runtime import OnnxSession
from model_store.store import ModelStore
from model_store.weights import SYMMETRIC_SCALING, NetworkWeights
from tests.model_store.tflite_files import Scaling, quantize, write_tflite
from tests.model_store.weight_files import write_frozen, write_keras, write_tfjs
from tests.networks import Convolution, Floats, RandomNetwork, pictures

Writer = Callable[[Path, RandomNetwork], Path]


FORMATS: dict[str, Writer] = {
    "keras": lambda folder, network: write_keras(folder / "model.h5", network),
    "tfjs": lambda folder, network: write_tfjs(folder / "tfjs", network),
    "frozen": lambda folder, network: write_frozen(folder / "frozen.pb", network),
    "frozen-fused": lambda folder, network: write_frozen(folder / "fused.pb", network, fused=True),
    "tflite": lambda folder, network: write_tflite(folder / "model.tflite", network),
}


def scores(weights: NetworkWeights, pixels: npt.NDArray[np.uint8]) -> Floats:
    return OnnxSession(build_classifier(weights)).run(pixels)


def load(path: Path) -> NetworkWeights:
    return build.load_weights(path)[1]


def interpret(path: Path, images: Floats | npt.NDArray[np.uint8 | np.int8]) -> Floats:
    """What TensorFlow Lite's own interpreter answers, one picture at a time."""
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    runner = litert.Interpreter(model_path=str(path), num_threads=1)
    runner.allocate_tensors()
    source, target = runner.get_input_details()[0]["index"], runner.get_output_details()[0]["index"]
    answers = []
    for image in images:
        runner.set_tensor(source, image[np.newaxis])
        runner.invoke()
        answers.append(runner.get_tensor(target)[0])
    return np.stack(answers).astype(np.float32)


@pytest.mark.parametrize("format", FORMATS)
def test_weights_are_the_networks(format: str, network: RandomNetwork, tmp_path: Path) -> None:
    weights = load(FORMATS[format](tmp_path, network))
    assert (weights.alpha, weights.classes, weights.background) == (0.25, 1000, False)
    assert weights.trained_resolution == 128
    assert weights.scaling == SYMMETRIC_SCALING
    *body, head = weights.layers
    for found, layer in zip(body, network.convolutions, strict=True):
        kernel, bias = layer.folded(network.epsilon)
        # [k, k, in, out] to [out, in, k, k]; [k, k, channels, 1] to [channels, 1, k, k].
        axes = (2, 3, 0, 1) if layer.kind == "depthwise" else (3, 2, 0, 1)
        np.testing.assert_allclose(found.kernel, kernel.transpose(axes), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found.bias, bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(head.kernel, network.head.T)
    np.testing.assert_array_equal(head.bias, network.head_bias)


@pytest.mark.parametrize("format", FORMATS)
def test_scores_are_the_references(format: str, network: RandomNetwork, tmp_path: Path) -> None:
    found = scores(load(FORMATS[format](tmp_path, network)), pictures())
    assert np.abs(found - network.probabilities(pictures())).max() < 1e-5


@pytest.mark.parametrize("resolution", [224, 192, 160])
def test_one_set_of_weights_serves_every_resolution(
    resolution: int, network: RandomNetwork, tmp_path: Path
) -> None:
    pixels = pictures(1, resolution)
    found = scores(load(write_keras(tmp_path / "model.h5", network)), pixels)
    assert np.abs(found - network.probabilities(pixels)).max() < 1e-5


@pytest.mark.parametrize("format", FORMATS)
def test_the_background_class_goes_and_the_other_probabilities_stay(
    format: str, network_1001: RandomNetwork, tmp_path: Path
) -> None:
    weights = load(FORMATS[format](tmp_path, network_1001))
    assert (weights.background, weights.classes) == (True, 1000)
    reference = network_1001.probabilities(pictures())
    found = scores(weights, pictures())
    assert found.shape == (3, 1000)
    assert np.abs(found - reference[:, 1:]).max() < 1e-5
    np.testing.assert_allclose(found.sum(axis=1), 1 - reference[:, 0], atol=1e-5)


def test_float_tflite_answers_as_tensorflow_lite_does(network: RandomNetwork, tmp_path: Path) -> None:
    path = write_tflite(tmp_path / "model.tflite", network)
    images = (pictures() / 127.5 - 1).astype(np.float32)
    assert np.abs(scores(load(path), pictures()) - interpret(path, images)).max() < 1e-4


def test_half_float_tflite_is_dequantised(network: RandomNetwork, tmp_path: Path) -> None:
    path = write_tflite(tmp_path / "half.tflite", network, storage="float16")
    images = (pictures() / 127.5 - 1).astype(np.float32)
    assert np.abs(scores(load(path), pictures()) - interpret(path, images)).max() < 1e-4


@pytest.mark.parametrize("scaling", [Scaling((1 / 128,), 128), Scaling((1 / 110,), 120)])
@pytest.mark.parametrize("storage", ["uint8", "int8"])
def test_quantised_tflite_says_what_a_pixel_stands_for(
    storage: Literal["uint8", "int8"], scaling: Scaling, network: RandomNetwork, tmp_path: Path
) -> None:
    path = write_tflite(tmp_path / "quant.tflite", network, storage=storage, pixels=scaling)
    weights = load(path)
    assert weights.scaling.scale == pytest.approx(scaling.scales[0])
    assert weights.scaling.zero == scaling.zero
    found = scores(weights, pictures())
    moved = pictures() if storage == "uint8" else (pictures().astype(int) - 128).astype(np.int8)
    answers = interpret(path, moved) / 256 + (0 if storage == "uint8" else 0.5)
    np.testing.assert_array_equal(found.argmax(axis=1), answers.argmax(axis=1))
    # Activations of 8 bits through 27 layers, scores of 1/256.
    assert np.abs(found - answers).max() < 0.1


def test_quantised_tflite_weights_are_the_floats_they_stand_for(
    network: RandomNetwork, tmp_path: Path
) -> None:
    weights = load(write_tflite(tmp_path / "quant.tflite", network, storage="uint8"))
    kernel, _ = network.convolutions[0].folded(network.epsilon)
    stored, scaling = quantize(kernel)
    expected = (stored.astype(np.float64) - scaling.zero) * scaling.scales[0]
    np.testing.assert_allclose(weights.layers[0].kernel, expected.transpose(3, 2, 0, 1), atol=1e-6)


def test_tflite_weights_of_one_scale_a_channel(network: RandomNetwork, tmp_path: Path) -> None:
    """Each channel is off by no more than half of its own step."""
    weights = load(write_tflite(tmp_path / "quant.tflite", network, storage="int8"))
    for found, layer in zip(weights.layers[:-1], network.convolutions, strict=True):
        kernel, _ = layer.folded(network.epsilon)
        expected = kernel.transpose((2, 3, 0, 1) if layer.kind == "depthwise" else (3, 2, 0, 1))
        step = np.abs(expected).max(axis=(1, 2, 3), keepdims=True) / 127
        assert (np.abs(found.kernel - expected) <= 0.501 * step).all()


def test_tfjs_in_half_floats(network: RandomNetwork, tmp_path: Path) -> None:
    halved = map_tensors(network, lambda t: t.astype(np.float16).astype(np.float32))
    found = scores(load(write_tfjs(tmp_path / "tfjs", network, quantization="float16")), pictures())
    assert np.abs(found - halved.probabilities(pictures())).max() < 1e-5


def test_tfjs_quantised_to_bytes(network: RandomNetwork, tmp_path: Path) -> None:
    def to_bytes(tensor: Floats) -> Floats:
        low, high = float(tensor.min()), float(tensor.max())
        scale = (high - low) / 255
        return np.asarray(np.round((tensor - low) / scale).astype(np.uint8) * scale + low, np.float32)

    found = scores(load(write_tfjs(tmp_path / "tfjs", network, quantization="uint8")), pictures())
    reference = map_tensors(network, to_bytes).probabilities(pictures())
    assert np.abs(found - reference).max() < 1e-5


def test_tfjs_may_be_named_by_its_folder(network: RandomNetwork, tmp_path: Path) -> None:
    path = write_tfjs(tmp_path / "tfjs", network)
    assert len(list(path.parent.glob("*shard*"))) > 3
    np.testing.assert_array_equal(load(path.parent).layers[0].kernel, load(path).layers[0].kernel)


def test_tfjs_may_have_any_name_and_its_hash_is_of_the_files_that_it_names(
    network: RandomNetwork, tmp_path: Path
) -> None:
    path = write_tfjs(tmp_path / "tfjs", network)
    store = ModelStore(tmp_path / "store")
    task = tasks.ensure_task(store, "imagenet")

    def sha256(path: Path) -> str:
        found = build.install_file(store, task, path, resolution=None, location="here", licence="none")
        return found.origin.sha256

    parts = [path, *sorted(path.parent.glob("*shard*"))]
    expected = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    assert sha256(path) == sha256(path.parent) == expected
    (path.parent / "another-shard").write_bytes(b"of another model")
    assert sha256(path.rename(path.with_name("mobilenet.JSON"))) == expected


def test_keras_weights_without_a_configuration(tmp_path: Path) -> None:
    """`save_weights` keeps neither epsilon nor input size: Keras's default holds, the size is open."""
    network = RandomNetwork.make(epsilon=1e-3)
    weights = load(write_keras(tmp_path / "weights.h5", network, weights_only=True))
    assert weights.trained_resolution is None
    assert np.abs(scores(weights, pictures()) - network.probabilities(pictures())).max() < 1e-5


def test_frozen_graph_without_gamma_and_with_single_values(network: RandomNetwork, tmp_path: Path) -> None:
    """Slim scales by no gamma unless told; TensorFlow stores a tensor of equal values as one."""
    ones = map_norms(network, gamma=1.0, variance=1.0)
    with_gamma = write_frozen(tmp_path / "gamma.pb", ones, short_form=True)
    without = write_frozen(tmp_path / "none.pb", ones, short_form=True, gamma=False)
    for path in (with_gamma, without):
        assert np.abs(scores(load(path), pictures()) - ones.probabilities(pictures())).max() < 1e-5
    assert with_gamma.stat().st_size > without.stat().st_size


def test_the_same_weights_give_the_same_bytes(network: RandomNetwork, tmp_path: Path) -> None:
    """Checksums of a store can be compared between machines."""
    weights = load(write_keras(tmp_path / "model.h5", network))
    assert build_classifier(weights) == build_classifier(weights)


def map_tensors(network: RandomNetwork, change: Callable[[Floats], Floats]) -> RandomNetwork:
    """Every tensor changed."""

    def changed(layer: Convolution) -> Convolution:
        norm = layer.norm
        norm = replace(
            norm,
            gamma=change(norm.gamma),
            beta=change(norm.beta),
            mean=change(norm.mean),
            variance=change(norm.variance),
        )
        return replace(layer, kernel=change(layer.kernel), norm=norm)

    convolutions = tuple(changed(layer) for layer in network.convolutions)
    head, bias = change(network.head), change(network.head_bias)
    return replace(network, convolutions=convolutions, head=head, head_bias=bias)


def map_norms(network: RandomNetwork, *, gamma: float, variance: float) -> RandomNetwork:
    """Every gamma and variance the same number."""

    def changed(layer: Convolution) -> Convolution:
        ones = np.ones_like(layer.norm.gamma)
        norm = replace(layer.norm, gamma=ones * np.float32(gamma), variance=ones * np.float32(variance))
        return replace(layer, norm=norm)

    return replace(network, convolutions=tuple(changed(layer) for layer in network.convolutions))
