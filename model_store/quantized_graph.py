"""From a quantised network to the ONNX model that the store holds: `image` uint8 in, `scores` float32 out.

Standard operators in QDQ form: each convolution stands between the DequantizeLinear of what it reads and the
QuantizeLinear of what it makes, which every runtime knows to read as integer arithmetic. ONNX Runtime makes
QLinearConv of them when it loads the model, turns these to channels-last, and the Transposes with them into
nothing: the picture is read as it lies in memory. Only softmax is in float.
"""

import numpy as np
import onnx

from model_store.architecture import RESOLUTIONS, Layer
from model_store.graph_builder import GraphBuilder
from model_store.manifest import Head
from model_store.quantized import QuantizedChain, QuantizedNetwork, QuantizedWeights

# Four pixels of a row count as one of twelve channels, and give two columns of the output: sums over three
# channels would leave most of a vector register empty.
_BLOCK_PIXELS, _BLOCK_COLUMNS = 4, 2


def build_quantized_classifier(network: QuantizedNetwork, head: Head = "classification") -> bytes:
    """Serialised ONNX of the network, for pictures of any resolution; the same network, the same bytes.

    Its outputs are those of the float network (see `graph`).
    """
    spec = network.spec(RESOLUTIONS[0])
    *convolutions, _ = spec.layers
    graph = IntegerGraph(network)
    graph.stem(convolutions[0])
    for index, layer in enumerate(convolutions[1:], start=1):
        graph.convolution(index, layer)
    outputs = {"scores": [network.classes]}
    if head == "attributes":
        graph.classifier(network.layers[-1], integers="quantized_features", reals="features")
        graph.attributes_and_age()
        outputs["features"] = [spec.features]
    else:
        graph.classifier(network.layers[-1])
        graph.probabilities(network.classes + network.background, background=network.background)
    model = graph.model("mobilenet_v1_int8", outputs)
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


class IntegerGraph(GraphBuilder):
    """Layers with weights in integers."""

    def __init__(self, network: QuantizedChain) -> None:
        super().__init__()
        self._network = network
        self._scales: list[tuple[str, str]] = []
        for i, activation in enumerate(network.activations):
            scale = self.tensor(f"activation_{i}/scale", np.float32(activation.scale))
            self._scales.append((scale, self.tensor(f"activation_{i}/zero", np.uint8(activation.zero))))

    def stem(self, layer: Layer) -> None:
        self._rows_of("pixel_blocks", _BLOCK_PIXELS * layer.in_channels)
        self.node("Transpose", "block_planes", perm=[0, 3, 1, 2])
        weights = blocked_kernel(self._network.layers[0])
        # A row of zeros below and a column of blocks to the right: all that `SAME` asks for at stride 2.
        self._convolve(0, f"{layer.name}/blocks", weights, pads=[0, 0, 1, 1], strides=[2, 1], group=1)
        self.node("Transpose", "column_pairs", perm=[0, 2, 3, 1])
        self._rows_of("columns", layer.out_channels)
        self.node("Transpose", layer.name, perm=[0, 3, 1, 2])

    def convolution(self, index: int, layer: Layer) -> None:
        before, after = layer.padding
        self._convolve(
            index,
            layer.name,
            self._network.layers[index],
            pads=[before, before, after, after],
            strides=[layer.stride, layer.stride],
            group=layer.in_channels if layer.kind == "depthwise" else 1,
        )

    def classifier(
        self, weights: QuantizedWeights, *, integers: str = "features", reals: str = "real_features"
    ) -> None:
        """From the last map to the logits; `integers` and `reals` name what the classifier reads."""
        last = len(self._scales) - 1
        self._dequantize(last, "maps")
        self.node("GlobalAveragePool", "mean")
        self._quantize(last, "pool")
        self.node("Flatten", integers, axis=1)
        self._dequantize(last, reals)
        # A matrix multiplication wants its weights transposed: [in, out].
        self.node("Gemm", "logits", *self._weights("classifier", last, weights, channel_axis=1))

    def _convolve(
        self, index: int, name: str, weights: QuantizedWeights, **attributes: int | list[int]
    ) -> None:
        self._dequantize(index, f"{name}/input")
        tensors = self._weights(name, index, weights)
        self.node("Conv", f"{name}/sum", *tensors, kernel_shape=list(weights.kernel.shape[2:]), **attributes)
        self._quantize(index + 1, name)

    def _quantize(self, index: int, output: str) -> None:
        self.node("QuantizeLinear", output, *self._scales[index])

    def _dequantize(self, index: int, output: str) -> None:
        self.node("DequantizeLinear", output, *self._scales[index])

    def _weights(
        self, name: str, source: int, weights: QuantizedWeights, *, channel_axis: int = 0
    ) -> tuple[str, str]:
        """Names of the kernel and the bias as floats. A step of the bias is one of the sum of products: the
        step of the activation `source` times that of the channel's weights."""
        kernel = np.ascontiguousarray(weights.kernel.T) if channel_axis else weights.kernel
        zeros = self.tensor(f"{name}/zero", np.full(weights.scale.shape, weights.zero, kernel.dtype))
        scale = self.tensor(f"{name}/scale", weights.scale)
        step = np.float32(self._network.activations[source].scale) * weights.scale
        bias_step = self.tensor(f"{name}/bias_scale", step.astype(np.float32))
        return (
            self.constant(
                "DequantizeLinear", self.tensor(f"{name}/kernel", kernel), scale, zeros, axis=channel_axis
            ),
            self.constant("DequantizeLinear", self.tensor(f"{name}/bias", weights.bias), bias_step, axis=0),
        )

    def _rows_of(self, output: str, channels: int) -> None:
        """The same rows, each cut up anew into pixels of so many channels."""
        shape = np.array([0, 0, -1, channels], np.int64)
        self.node("Reshape", output, self.tensor(f"{output}/shape", shape))
