"""Quantised TensorFlow Lite files as they are, beside TensorFlow Lite's own interpreter."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from model_store import build
from model_store.importers import tflite, tflite_quantized
from model_store.quantized_graph import build_quantized_classifier
from model_store.runtime import OnnxSession
from model_store.weights import WeightsError
from tests.model_store import tflite_files
from tests.model_store.test_importers import interpret
from tests.model_store.tflite_files import Scaling, write_tflite
from tests.networks import Floats, RandomNetwork, pictures


@pytest.mark.parametrize("storage", ["uint8", "int8"])
def test_it_answers_as_the_file_does(
    storage: Literal["uint8", "int8"], network_1001: RandomNetwork, tmp_path: Path
) -> None:
    """The reference's own scores are multiples of 1/256, of logits of 8 bits."""
    path = write_tflite(tmp_path / "quant.tflite", network_1001, storage=storage)
    network = tflite_quantized.load(path)
    assert network is not None
    assert (network.alpha, network.background, network.trained_resolution) == (0.25, True, 128)
    assert network.activations[0].scale == pytest.approx(1 / 128)
    assert network.activations[0].zero == 128
    found = OnnxSession(build_quantized_classifier(network)).run(pictures(8))
    moved = pictures(8) if storage == "uint8" else (pictures(8).astype(int) - 128).astype(np.int8)
    answers = interpret(path, moved) / 256 + (0 if storage == "uint8" else 0.5)
    np.testing.assert_array_equal(found.argmax(axis=1), answers[:, 1:].argmax(axis=1))
    assert np.abs(found - answers[:, 1:]).max() < 0.05


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_float_file_is_none(
    storage: Literal["float32", "float16"], network: RandomNetwork, tmp_path: Path
) -> None:
    path = write_tflite(tmp_path / "float.tflite", network, storage=storage)
    assert tflite_quantized.load(path) is None
    assert build.load_quantized(tmp_path / "other.h5") is None


def test_a_range_that_does_not_end_at_six_is_refused(
    network: RandomNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite_files, "_RELU6_OUTPUT", Scaling((8 / 255,), 0))
    path = write_tflite(tmp_path / "wide.tflite", network, storage="uint8")
    with pytest.raises(WeightsError, match="conv_0 is wider than ReLU6; import it with --dequantize"):
        tflite_quantized.load(path)


@pytest.mark.parametrize(
    "pixels",
    [Scaling((1 / 128,), 300), Scaling((1 / 128,), -1), Scaling((0.0,), 128), Scaling((np.nan,), 128)],
)
@pytest.mark.parametrize("load", [tflite_quantized.load, tflite.load])
def test_a_range_of_pixels_that_makes_no_sense_is_refused(
    load: Callable[[Path], object], pixels: Scaling, network: RandomNetwork, tmp_path: Path
) -> None:
    with np.errstate(all="ignore"):  # of the writer, whose biases depend on it
        path = write_tflite(tmp_path / "damaged.tflite", network, storage="uint8", pixels=pixels)
    with pytest.raises(WeightsError, match=r"tensor_0.* has a scale of"):
        load(path)


@pytest.mark.parametrize("scale", [0.0, np.nan, np.inf])
def test_a_scale_of_maps_that_makes_no_sense_is_refused(
    scale: float, network: RandomNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite_files, "_RELU6_OUTPUT", Scaling((scale,), 0))
    with np.errstate(all="ignore"):
        path = write_tflite(tmp_path / "damaged.tflite", network, storage="uint8")
    with pytest.raises(WeightsError, match=f"has a scale of {scale}"):
        tflite_quantized.load(path)


@pytest.mark.parametrize("zero", [-1, 256, 8214565720323784869])
def test_a_zero_point_that_no_weight_can_have_is_refused(
    zero: int, network: RandomNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize = tflite_files.quantize

    def damaged(values: Floats) -> tuple[npt.NDArray[np.uint8], Scaling]:
        stored, scaling = quantize(values)
        return stored, replace(scaling, zero=zero)

    monkeypatch.setattr(tflite_files, "quantize", damaged)
    path = write_tflite(tmp_path / "damaged.tflite", network, storage="uint8")
    with pytest.raises(WeightsError, match=f"of uint8 has a zero point of {zero}"):
        tflite_quantized.load(path)


def test_a_file_without_all_layers_is_refused(network: RandomNetwork, tmp_path: Path) -> None:
    shorter = replace(network, convolutions=network.convolutions[:-2])
    path = write_tflite(tmp_path / "short.tflite", shorter, storage="uint8")
    with pytest.raises(WeightsError):
        tflite_quantized.load(path)
