"""Weights files that are damaged or are something else: one clear WeightsError, nothing else."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_store import build
from model_store.importers import graph_def
from model_store.weights import WeightsError
from tests.model_store.refusals import refusal
from tests.model_store.tflite_files import write_tflite
from tests.model_store.weight_files import write_frozen, write_keras, write_tfjs
from tests.networks import RandomNetwork

Writer = Callable[[Path, RandomNetwork], Path]

FORMATS: dict[str, Writer] = {
    "keras": lambda folder, network: write_keras(folder / "model.h5", network),
    "tfjs": lambda folder, network: write_tfjs(folder / "tfjs", network),
    "frozen": lambda folder, network: write_frozen(folder / "model.pb", network),
    "tflite": lambda folder, network: write_tflite(folder / "model.tflite", network),
}
SUFFIXES = {"keras": ".h5", "frozen": ".pb", "tflite": ".tflite"}
fuzzing = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def files(network: RandomNetwork, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: FORMATS[name](folder, network).read_bytes() for name in SUFFIXES}


def load_or_refuse(path: Path, data: bytes) -> None:
    """A changed weight cannot be told from a right one; but no error is any other than ours."""
    path.write_bytes(data)
    with contextlib.suppress(WeightsError):
        build.load_weights(path)


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(format: str, share: float, files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / f"cut{SUFFIXES[format]}"
    path.write_bytes(files[format][: int(len(files[format]) * share)])
    refusal(path)


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"<!DOCTYPE html><title>404</title>" * 9])
def test_files_of_another_kind(format: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"other{SUFFIXES[format]}"
    path.write_bytes(content)
    assert path.name in refusal(path)


@pytest.mark.parametrize("suffix", [*SUFFIXES.values(), ".json"])
def test_files_that_are_not_there(suffix: str, tmp_path: Path) -> None:
    assert "none" in refusal(tmp_path / f"none{suffix}")


def test_a_suffix_of_no_format_names_those_that_can_be_imported(tmp_path: Path) -> None:
    assert ".tflite" in refusal(tmp_path / "weights.ckpt")


@pytest.mark.parametrize("format", SUFFIXES)
@fuzzing
@given(data=st.data())
def test_flipped_bytes(format: str, files: dict[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    """In the first and last kilobytes, where these formats keep their tables."""
    damaged = bytearray(files[format])
    near = st.integers(0, 6000) | st.integers(len(damaged) - 20_000, len(damaged) - 1)
    for position in data.draw(st.lists(near, min_size=1, max_size=12)):
        damaged[position] = data.draw(st.integers(0, 255))
    load_or_refuse(tmp_path / f"flipped{SUFFIXES[format]}", bytes(damaged))


@pytest.mark.parametrize("format", SUFFIXES)
@fuzzing
@given(data=st.data())
def test_truncation_anywhere(
    format: str, files: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    whole = files[format]
    load_or_refuse(tmp_path / f"cut{SUFFIXES[format]}", whole[: data.draw(st.integers(0, len(whole)))])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("index", [0, 9, 26])
def test_a_missing_layer(format: str, index: int, network: RandomNetwork, tmp_path: Path) -> None:
    refusal(FORMATS[format](tmp_path, network.with_layer(index, None)))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("index", "shape"),
    [
        (0, (3, 3, 3, 9)),  # a width that no alpha has
        (1, (5, 5, 8, 1)),  # a larger filter
        (1, (3, 3, 16, 1)),  # wider than its BatchNorm
        (2, (1, 1, 8, 24)),
        (4, (1, 1, 8, 32)),  # takes fewer channels than there are
        (7, (3, 32)),  # not a convolution's kernel at all
    ],
)
def test_a_wrong_shape(
    format: str, index: int, shape: tuple[int, ...], network: RandomNetwork, tmp_path: Path
) -> None:
    if format == "tflite" and len(shape) == 2:
        shape = (1, 1, *shape)
    changed = network.with_kernel(index, np.ones(shape, np.float32))
    if format == "tflite":  # folding needs a BatchNorm as wide as the kernel
        layer = changed.convolutions[index]
        channels = shape[2] if layer.kind == "depthwise" else shape[3]
        norm = replace(
            layer.norm,
            **{name: np.ones(channels, np.float32) for name in ("gamma", "beta", "mean", "variance")},
        )
        changed = changed.with_layer(index, replace(layer, norm=norm))
    refusal(FORMATS[format](tmp_path, changed))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(
    format: str, value: float, network: RandomNetwork, tmp_path: Path
) -> None:
    kernel = network.convolutions[5].kernel.copy()
    kernel[1, 1, 3, 0] = value
    text = refusal(FORMATS[format](tmp_path, network.with_kernel(5, kernel)))
    assert "dw_3" in text
    assert "finite" in text


@pytest.mark.parametrize("format", FORMATS)
def test_a_negative_variance_is_refused_without_a_warning(
    format: str, network: RandomNetwork, tmp_path: Path
) -> None:
    layer = network.convolutions[3]
    norm = replace(layer.norm, variance=-np.ones_like(layer.norm.variance))
    with np.errstate(invalid="ignore"):  # of the writer, which folds for TensorFlow Lite
        path = FORMATS[format](tmp_path, network.with_layer(3, replace(layer, norm=norm)))
    assert "finite" in refusal(path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("classes", [2, 999, 1002])
def test_another_number_of_classes(format: str, classes: int, tmp_path: Path) -> None:
    text = refusal(FORMATS[format](tmp_path, RandomNetwork.make(classes)))
    assert f"{classes} classes" in text


def test_a_frozen_graph_of_another_network_names_what_it_lacks(tmp_path: Path) -> None:
    graph = graph_def.new_graph()
    graph.node.add(name="InceptionV3/Conv2d_1a_3x3/weights", op="Const")
    path = tmp_path / "inception.pb"
    path.write_bytes(graph.SerializeToString())
    assert "MobilenetV1/Conv2d_0" in refusal(path)


@pytest.mark.parametrize("name", ["weights", "BatchNorm/moving_mean", "batchnorm/add/y"])
@pytest.mark.parametrize("how", ["integers", "no value", "huge shape", "negative shape", "many values"])
def test_a_constant_that_is_no_float_tensor(
    name: str, how: str, network: RandomNetwork, tmp_path: Path
) -> None:
    path = write_frozen(tmp_path / "model.pb", network)
    graph = graph_def.new_graph()
    graph.ParseFromString(path.read_bytes())
    (node,) = [
        n
        for n in graph.node
        if n.name.endswith(f"Conv2d_0/{name}") or n.name.endswith(f"Conv2d_0/BatchNorm/{name}")
    ]
    tensor = node.attr[0].value.tensor
    if how == "integers":
        tensor.dtype = 3
    elif how == "no value":
        del node.attr[:]
    elif how == "many values":
        del tensor.tensor_shape.dim[:]
        tensor.tensor_shape.dim.add(size=3)
        tensor.tensor_content = np.ones(3, "<f4").tobytes()
    else:
        tensor.ClearField("tensor_content")
        del tensor.float_val[:]
        tensor.float_val.append(1.0)
        tensor.tensor_shape.dim.add(size=1 << 50 if how == "huge shape" else -3)
    path.write_bytes(graph.SerializeToString())
    refusal(path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"relu6": False}, "conv_0 has no ReLU6"), ({"same": False}, "conv_0 does not pad")],
)
def test_a_tflite_of_another_activation_or_padding(
    options: dict[str, bool], reason: str, network: RandomNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "model.tflite"
    if "relu6" in options:
        write_tflite(path, network, relu6=options["relu6"])
    else:
        write_tflite(path, network, same=options["same"])
    assert reason in refusal(path)
