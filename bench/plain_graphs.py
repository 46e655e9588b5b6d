"""The graphs that one gets without care: what the store's own are compared with."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from model_store.calibration import drawn_pictures
from model_store.graph_builder import IR_VERSION, OPSET
from model_store.weights import NetworkWeights


def plain_float(weights: NetworkWeights, resolution: int) -> bytes:
    """Cast, transpose, multiply and subtract in float, then the layers one by one."""
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, np.typing.NDArray[np.generic]] = {}
    last = "image"

    def add(op: str, output: str, *inputs: str, **attributes: object) -> None:
        nonlocal last
        nodes.append(helper.make_node(op, [last, *inputs], [output], name=output, **attributes))
        last = output

    tensors["scale"] = np.array(weights.scaling.scale, np.float32)
    tensors["shift"] = np.array(weights.scaling.scale * weights.scaling.zero, np.float32)
    tensors["zero"], tensors["six"] = np.array(0, np.float32), np.array(6, np.float32)
    add("Cast", "pixels", to=TensorProto.FLOAT)
    add("Transpose", "planes", perm=[0, 3, 1, 2])
    add("Mul", "scaled", "scale")
    add("Sub", "normalised", "shift")
    spec = weights.spec(resolution)
    for layer, tensor in zip(spec.layers[:-1], weights.layers, strict=False):
        tensors[f"{layer.name}/k"], tensors[f"{layer.name}/b"] = tensor.kernel, tensor.bias
        before, after = layer.padding
        group = layer.in_channels if layer.kind == "depthwise" else 1
        pads, strides = [before, before, after, after], [layer.stride] * 2
        add("Conv", layer.name, f"{layer.name}/k", f"{layer.name}/b", group=group, pads=pads, strides=strides)
        add("Clip", f"{layer.name}/relu6", "zero", "six")
    tensors["head/k"], tensors["head/b"] = weights.layers[-1].kernel, weights.layers[-1].bias
    add("GlobalAveragePool", "pool")
    add("Flatten", "features")
    add("Gemm", "logits", "head/k", "head/b", transB=1)
    add("Softmax", "scores", axis=1)
    outputs = weights.classes + weights.background
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", resolution, resolution, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def plain_static(model: bytes, resolution: int, pictures: int = 8) -> bytes:
    """ONNX Runtime's own static quantisation of `model`, one scale a channel, in QDQ form."""
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (str(Path(folder) / name) for name in ("float", "prepared", "int8"))
        Path(source).write_bytes(model)
        quantization.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            _Pictures(resolution, pictures),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
        return Path(target).read_bytes()


class _Pictures(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, resolution: int, count: int) -> None:
        self._rest = iter(drawn_pictures(count, resolution))

    def get_next(self) -> "dict[str, np.typing.NDArray[np.uint8]] | None":
        picture = next(self._rest, None)
        return None if picture is None else {"image": picture[np.newaxis]}
