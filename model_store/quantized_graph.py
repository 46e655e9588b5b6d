"""From a quantised network to the ONNX model that the store holds: `image` uint8 in, `scores` float32 out.

Standard QLinearConv nodes from the picture's bytes to the last maps. ONNX Runtime turns them to
channels-last when it loads the model, and the Transposes with them into nothing: the picture is read as it
lies in memory. Only softmax is in float.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_store.architecture import Layer
from model_store.graph import IR_VERSION, OPSET, PRODUCER
from model_store.quantized import QuantizedNetwork, QuantizedWeights

_NODE_PREFIX = "MobilenetV1"
_CONTRIB = "com.microsoft"  # ONNX Runtime's operators
# Four pixels of a row count as one of twelve channels, and give two columns of the output: sums over three
# channels would leave most of a vector register empty.
_BLOCK_PIXELS, _BLOCK_COLUMNS = 4, 2


def build_quantized_classifier(network: QuantizedNetwork, resolution: int) -> bytes:
    """Serialised ONNX for square pictures of `resolution` pixels; the same network, the same bytes."""
    *convolutions, _ = network.spec(resolution).layers
    graph = _GraphBuilder(network)
    graph.stem(convolutions[0])
    for index, layer in enumerate(convolutions[1:], start=1):
        graph.convolution(index, layer)
    graph.classifier()
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", resolution, resolution, 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", network.classes])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "mobilenet_v1_int8", [image], [scores], graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(_CONTRIB, 1)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def blocked_kernel(weights: QuantizedWeights) -> QuantizedWeights:
    """The stem for blocks of pixels: [out, 3, 3, 3] at stride 2 to [2 out, 12, 3, 2] at stride (2, 1).

    Output 2j + c of a row reads pixels 4j + 2c to 4j + 2c + 2: block j, and for the last of them j + 1.
    """
    outputs, channels, rows, columns = weights.kernel.shape
    shape = (_BLOCK_COLUMNS * outputs, _BLOCK_PIXELS * channels, rows, 2)
    blocked = np.full(shape, weights.zero, weights.kernel.dtype)
    for column in range(_BLOCK_COLUMNS):
        target = slice(column * outputs, (column + 1) * outputs)
        for x in range(columns):
            block, pixel = divmod(2 * column + x, _BLOCK_PIXELS)
            source = slice(pixel * channels, (pixel + 1) * channels)
            blocked[target, source, :, block] = weights.kernel[:, :, :, x]
    scale, bias = np.tile(weights.scale, _BLOCK_COLUMNS), np.tile(weights.bias, _BLOCK_COLUMNS)
    return QuantizedWeights(blocked, weights.zero, scale, bias)


class _GraphBuilder:
    """Nodes in order; `self._last` is the name of the latest output."""

    def __init__(self, network: QuantizedNetwork) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._network = network
        self._last = "image"
        self._scales: list[tuple[str, str]] = []
        for i, activation in enumerate(network.activations):
            scale = self._tensor(f"activation_{i}/scale", np.float32(activation.scale))
            self._scales.append((scale, self._tensor(f"activation_{i}/zero", np.uint8(activation.zero))))

    def stem(self, layer: Layer) -> None:
        half = layer.out_size
        self._reshape("pixel_blocks", layer.in_size, layer.in_size // _BLOCK_PIXELS, 4 * layer.in_channels)
        self._node("Transpose", "block_planes", perm=[0, 3, 1, 2])
        weights = blocked_kernel(self._network.layers[0])
        # A row of zeros below and a column of blocks to the right: all that `SAME` asks for at stride 2.
        self._qlinear_conv(0, f"{layer.name}/blocks", weights, pads=[0, 0, 1, 1], strides=[2, 1], group=1)
        self._node("Transpose", "column_pairs", perm=[0, 2, 3, 1])
        self._reshape("columns", half, half, layer.out_channels)
        self._node("Transpose", layer.name, perm=[0, 3, 1, 2])

    def convolution(self, index: int, layer: Layer) -> None:
        before, after = layer.padding
        self._qlinear_conv(
            index,
            layer.name,
            self._network.layers[index],
            pads=[before, before, after, after],
            strides=[layer.stride, layer.stride],
            group=layer.in_channels if layer.kind == "depthwise" else 1,
        )

    def classifier(self) -> None:
        network, (scale, zero) = self._network, self._scales[-1]
        self._node("QLinearGlobalAveragePool", "pool", scale, zero, scale, zero, domain=_CONTRIB)
        self._node("Flatten", "features", axis=1)
        weights = self._weights("classifier", network.layers[-1], transposed=True)
        bias = self._tensor("classifier/bias", network.layers[-1].bias)
        self._node("QGemm", "logits", scale, zero, *weights, bias, domain=_CONTRIB)
        self._node("Softmax", "probabilities" if network.background else "scores", axis=1)
        if network.background:
            starts = self._tensor("first_class", np.array([1], np.int64))
            ends = self._tensor("end_class", np.array([network.classes + 1], np.int64))
            axes = self._tensor("class_axis", np.array([1], np.int64))
            self._node("Slice", "scores", starts, ends, axes)

    def _qlinear_conv(
        self, index: int, name: str, weights: QuantizedWeights, **attributes: int | list[int]
    ) -> None:
        source, target = self._scales[index], self._scales[index + 1]
        bias = self._tensor(f"{name}/bias", weights.bias)
        kernel_shape = list(weights.kernel.shape[2:])
        inputs = (*source, *self._weights(name, weights), *target, bias)
        self._node("QLinearConv", name, *inputs, kernel_shape=kernel_shape, **attributes)

    def _weights(
        self, name: str, weights: QuantizedWeights, *, transposed: bool = False
    ) -> tuple[str, str, str]:
        kernel = np.ascontiguousarray(weights.kernel.T) if transposed else weights.kernel
        zeros = np.full(weights.scale.shape, weights.zero, weights.kernel.dtype)
        return (
            self._tensor(f"{name}/kernel", kernel),
            self._tensor(f"{name}/scale", weights.scale),
            self._tensor(f"{name}/zero", zeros),
        )

    def _reshape(self, output: str, *sizes: int) -> None:
        self._node("Reshape", output, self._tensor(f"{output}/shape", np.array([0, *sizes], np.int64)))

    def _node(self, op: str, output: str, *inputs: str, **attributes: object) -> None:
        name = f"{_NODE_PREFIX}/{output}"
        self.nodes.append(helper.make_node(op, [self._last, *inputs], [output], name=name, **attributes))
        self._last = output

    def _tensor(
        self, name: str, value: np.generic | np.ndarray[tuple[int, ...], np.dtype[np.generic]]
    ) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name
