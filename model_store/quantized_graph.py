"""From a quantised network to the ONNX model that the store holds: `image` uint8 in, `scores` float32 out.

Standard QLinearConv nodes from the picture's bytes to the last maps. ONNX Runtime turns them to
channels-last when it loads the model, and the Transposes with them into nothing: the picture is read as it
lies in memory. Only softmax is in float.
"""

import numpy as np
import onnx

from model_store.architecture import Layer
from model_store.graph_builder import CONTRIB, GraphBuilder
from model_store.manifest import Head
from model_store.quantized import QuantizedNetwork, QuantizedWeights

# Four pixels of a row count as one of twelve channels, and give two columns of the output: sums over three
# channels would leave most of a vector register empty.
_BLOCK_PIXELS, _BLOCK_COLUMNS = 4, 2


def build_quantized_classifier(
    network: QuantizedNetwork, resolution: int, head: Head = "classification"
) -> bytes:
    """Serialised ONNX for square pictures of `resolution` pixels; the same network, the same bytes.

    Its outputs are those of the float network (see `graph`).
    """
    spec = network.spec(resolution)
    *convolutions, _ = spec.layers
    graph = _IntegerGraph(network)
    graph.stem(convolutions[0])
    for index, layer in enumerate(convolutions[1:], start=1):
        graph.convolution(index, layer)
    outputs = {"scores": [network.classes]}
    if head == "attributes":
        graph.classifier(features="quantized_features")
        graph.attributes_and_age()
        graph.real_features()
        outputs["features"] = [spec.features]
    else:
        graph.classifier()
        graph.probabilities(network.classes + network.background, background=network.background)
    model = graph.model_of("mobilenet_v1_int8", resolution, outputs, contrib=True)
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


class _IntegerGraph(GraphBuilder):
    def __init__(self, network: QuantizedNetwork) -> None:
        super().__init__()
        self._network = network
        self._scales: list[tuple[str, str]] = []
        for i, activation in enumerate(network.activations):
            scale = self.tensor(f"activation_{i}/scale", np.float32(activation.scale))
            self._scales.append((scale, self.tensor(f"activation_{i}/zero", np.uint8(activation.zero))))

    def stem(self, layer: Layer) -> None:
        half = layer.out_size
        self._reshape("pixel_blocks", layer.in_size, layer.in_size // _BLOCK_PIXELS, 4 * layer.in_channels)
        self.node("Transpose", "block_planes", perm=[0, 3, 1, 2])
        weights = blocked_kernel(self._network.layers[0])
        # A row of zeros below and a column of blocks to the right: all that `SAME` asks for at stride 2.
        self._qlinear_conv(0, f"{layer.name}/blocks", weights, pads=[0, 0, 1, 1], strides=[2, 1], group=1)
        self.node("Transpose", "column_pairs", perm=[0, 2, 3, 1])
        self._reshape("columns", half, half, layer.out_channels)
        self.node("Transpose", layer.name, perm=[0, 3, 1, 2])

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

    def classifier(self, features: str = "features") -> None:
        network, (scale, zero) = self._network, self._scales[-1]
        self.node("QLinearGlobalAveragePool", "pool", scale, zero, scale, zero, domain=CONTRIB)
        self.node("Flatten", features, axis=1)
        weights = self._weights("classifier", network.layers[-1], transposed=True)
        bias = self.tensor("classifier/bias", network.layers[-1].bias)
        self.node("QGemm", "logits", scale, zero, *weights, bias, domain=CONTRIB)

    def real_features(self) -> None:
        """`features`, as the float network has them."""
        self.go_back_to("quantized_features")
        self.node("DequantizeLinear", "features", *self._scales[-1])

    def _qlinear_conv(
        self, index: int, name: str, weights: QuantizedWeights, **attributes: int | list[int]
    ) -> None:
        source, target = self._scales[index], self._scales[index + 1]
        bias = self.tensor(f"{name}/bias", weights.bias)
        kernel_shape = list(weights.kernel.shape[2:])
        inputs = (*source, *self._weights(name, weights), *target, bias)
        self.node("QLinearConv", name, *inputs, kernel_shape=kernel_shape, **attributes)

    def _weights(
        self, name: str, weights: QuantizedWeights, *, transposed: bool = False
    ) -> tuple[str, str, str]:
        kernel = np.ascontiguousarray(weights.kernel.T) if transposed else weights.kernel
        zeros = np.full(weights.scale.shape, weights.zero, weights.kernel.dtype)
        return (
            self.tensor(f"{name}/kernel", kernel),
            self.tensor(f"{name}/scale", weights.scale),
            self.tensor(f"{name}/zero", zeros),
        )

    def _reshape(self, output: str, *sizes: int) -> None:
        self.node("Reshape", output, self.tensor(f"{output}/shape", np.array([0, *sizes], np.int64)))
