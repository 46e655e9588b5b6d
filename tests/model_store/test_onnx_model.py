"""Finished ONNX models: what fits the store is taken as it is, the rest refused with the reason."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from model_store.graph import build_classifier
from model_store.importers import keras_h5, onnx_model
from model_store.weights import WeightsError
from tests.model_store.weight_files import write_keras
from tests.networks import RandomNetwork


@pytest.fixture(scope="module")
def model(network: RandomNetwork, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_keras(tmp_path_factory.mktemp("onnx") / "model.h5", network)
    return build_classifier(keras_h5.load(path))


def changed(model: bytes, change: Callable[[onnx.GraphProto], object]) -> bytes:
    proto = onnx.load_from_string(model)
    change(proto.graph)
    return bytes(proto.SerializeToString())


def refusal(tmp_path: Path, model: bytes, classes: int = 1000, resolution: int | None = 128) -> str:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    with pytest.raises(WeightsError) as caught:
        onnx_model.load(path, classes, resolution)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_a_model_that_fits_is_taken_byte_for_byte(model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    for resolution in (128, 192):
        found = onnx_model.load(path, 1000, resolution)
        assert found == onnx_model.OnnxModel(model, 0.25, resolution, False)


def test_for_which_resolution(model: bytes, tmp_path: Path) -> None:
    """Of a model that is built for one it need not be said, and may not be said wrongly."""

    def fix(graph: onnx.GraphProto) -> None:
        for side in graph.input[0].type.tensor_type.shape.dim[1:3]:
            side.dim_value = 160

    assert "say which with --resolution" in refusal(tmp_path, model, resolution=None)
    path = tmp_path / "fixed.onnx"
    path.write_bytes(changed(model, fix))
    assert onnx_model.load(path, 1000).resolution == onnx_model.load(path, 1000, 160).resolution == 160
    assert "built for 160 pixels, not 128" in refusal(tmp_path, path.read_bytes())


def test_a_quantised_model_says_so(model: bytes, tmp_path: Path) -> None:
    """By its operators: quantise and dequantise the pooled features."""

    def quantise(graph: onnx.GraphProto) -> None:
        at = next(i for i, node in enumerate(graph.node) if node.op_type == "Gemm")
        gemm = graph.node[at]
        graph.initializer.append(helper.make_tensor("step", TensorProto.FLOAT, [], [6 / 255]))
        graph.initializer.append(helper.make_tensor("middle", TensorProto.UINT8, [], [0]))
        source, step = gemm.input[0], ["step", "middle"]
        gemm.input[0] = "features_again"
        graph.node.insert(at, helper.make_node("DequantizeLinear", ["bytes", *step], ["features_again"]))
        graph.node.insert(at, helper.make_node("QuantizeLinear", [source, *step], ["bytes"]))

    path = tmp_path / "model.onnx"
    path.write_bytes(changed(model, quantise))
    assert onnx_model.load(path, 1000, 128).quantized


def test_another_number_of_classes(model: bytes, tmp_path: Path) -> None:
    assert "(1, 10)" in refusal(tmp_path, model, classes=10)


def test_another_name_of_the_input(model: bytes, tmp_path: Path) -> None:
    def rename(graph: onnx.GraphProto) -> None:
        graph.input[0].name = graph.node[0].input[0] = "picture"

    assert "`image` uint8" in refusal(tmp_path, changed(model, rename))


def test_another_name_of_the_output(model: bytes, tmp_path: Path) -> None:
    def rename(graph: onnx.GraphProto) -> None:
        graph.output[0].name = graph.node[-1].output[0] = "probabilities"

    assert "`scores` float32" in refusal(tmp_path, changed(model, rename))


def test_a_float_input(model: bytes, tmp_path: Path) -> None:
    def retype(graph: onnx.GraphProto) -> None:
        graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT

    assert "image tensor(float)" in refusal(tmp_path, changed(model, retype))


def test_a_fixed_batch(model: bytes, tmp_path: Path) -> None:
    """The server sends as many pictures as it has."""

    def fix(graph: onnx.GraphProto) -> None:
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    assert "[4, 'H', 'W', 3]" in refusal(tmp_path, changed(model, fix))


def test_scores_that_are_not_finite(model: bytes, tmp_path: Path) -> None:
    def spoil(graph: onnx.GraphProto) -> None:
        (bias,) = [t for t in graph.initializer if t.name == "classifier/bias"]
        bias.raw_data = b"\xff" * len(bias.raw_data)  # NaN

    assert "finite" in refusal(tmp_path, changed(model, spoil))


def test_a_network_that_is_no_mobilenet(tmp_path: Path) -> None:
    """Every picture the same scores: the interface fits, the stem does not."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 128, 128, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["scores"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "mean", [image], [scores])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert "first convolution" in refusal(tmp_path, bytes(model.SerializeToString()), classes=3)


def test_a_model_that_fails_when_it_runs(model: bytes, tmp_path: Path) -> None:
    """Its shapes hold together, but it reaches for features that there are none of."""

    def spoil(graph: onnx.GraphProto) -> None:
        at, gemm = next((i, node) for i, node in enumerate(graph.node) if node.op_type == "Gemm")
        graph.initializer.append(helper.make_tensor("places", TensorProto.INT64, [256], [300] * 256))
        source = gemm.input[0]
        gemm.input[0] = "gathered"
        graph.node.insert(at, helper.make_node("Gather", [source, "places"], ["gathered"], axis=1))

    assert "grey picture" in refusal(tmp_path, changed(model, spoil))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_model(share: float, model: bytes, tmp_path: Path) -> None:
    refusal(tmp_path, model[: int(len(model) * share)])


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.onnx"):
        onnx_model.load(tmp_path / "none.onnx", 1000)
