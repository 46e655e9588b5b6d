"""From canonical weights to the ONNX model that the store holds.

Input `image`: uint8 [N, H, W, 3] RGB. Output `scores`: float32 [N, classes], the probabilities of the
classes without the background. Normalisation and the final activation are inside. A network of faces has a
second output, `features`: float32 [N, 1024 alpha], what its head reads.

H and W are left open: the layers are the same at every resolution, so that the variants of one set of weights
are one and the same model, which is in memory once.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from model_store.architecture import RESOLUTIONS, Layer, MobileNetSpec
from model_store.graph_builder import PRODUCER, GraphBuilder
from model_store.manifest import Head
from model_store.weights import InputScaling, LayerWeights, NetworkWeights, WeightsError, assemble


def build_classifier(weights: NetworkWeights, head: Head = "classification") -> bytes:
    """Serialised ONNX of the network. The same weights always give the same bytes."""
    spec = MobileNetSpec(weights.alpha, RESOLUTIONS[0], weights.classes + weights.background)
    graph = FloatGraph()
    *convolutions, _ = spec.layers
    graph.body(convolutions, weights.layers[:-1], weights.scaling)
    graph.classifier(weights.layers[-1])
    outputs = {"scores": [weights.classes]}
    if head == "attributes":
        graph.attributes_and_age()
        outputs["features"] = [spec.features]
    else:
        graph.probabilities(weights.classes + weights.background, background=weights.background)
    model = graph.model("mobilenet_v1", outputs)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def read_classifier(model: bytes) -> NetworkWeights:
    """The weights of a model that `build_classifier` made. Raises WeightsError for any other."""
    proto = onnx.load_from_string(model)
    tensors = {t.name: np.array(numpy_helper.to_array(t)) for t in proto.graph.initializer}
    layers = {
        layer.name: LayerWeights(tensors[f"{layer.name}/kernel"], tensors[f"{layer.name}/bias"])
        for layer in MobileNetSpec(1.0, RESOLUTIONS[0]).layers
        if {f"{layer.name}/kernel", f"{layer.name}/bias"} <= tensors.keys()
    }
    if proto.producer_name != PRODUCER or "input_zero" not in tensors:
        raise WeightsError("the model was not made by this program: its weights cannot be told")
    # The input's scale is in the first kernel already.
    scaling = InputScaling(scale=1.0, zero=float(tensors["input_zero"]))
    background = "first_class" in tensors
    classes = len(layers["classifier"].bias) if "classifier" in layers else 0
    weights = assemble(layers, classes=(classes,), scaling=scaling, trained_resolution=None)
    return replace(weights, background=background)


class FloatGraph(GraphBuilder):
    """Layers with weights in float."""

    def body(self, layers: Sequence[Layer], weights: Sequence[LayerWeights], scaling: InputScaling) -> None:
        """From the picture through all `layers`, each with ReLU6 behind it."""
        self.normalise(scaling)
        for layer, tensors in zip(layers, weights, strict=True):
            # The scale of the input goes into the first kernel: one multiplication less a pixel.
            scale = scaling.scale if layer.name == "conv_0" else 1.0
            self.convolution(layer, LayerWeights(tensors.kernel * np.float32(scale), tensors.bias))
            self.relu6(layer)

    def normalise(self, scaling: InputScaling) -> None:
        """uint8 NHWC to float NCHW around zero, so that padding with zeros means what it did in training."""
        self.node("Transpose", "planes", perm=[0, 3, 1, 2])
        self.node("Cast", "pixels", to=TensorProto.FLOAT)
        zero = self.tensor("input_zero", np.float32(scaling.zero))
        self.node("Sub", "centred", zero)

    def convolution(self, layer: Layer, weights: LayerWeights) -> None:
        before, after = layer.padding
        kernel = self.tensor(f"{layer.name}/kernel", weights.kernel)
        bias = self.tensor(f"{layer.name}/bias", weights.bias)
        self.node(
            "Conv",
            layer.name,
            kernel,
            bias,
            group=layer.in_channels if layer.kind == "depthwise" else 1,
            kernel_shape=[layer.kernel, layer.kernel],
            pads=[before, before, after, after],
            strides=[layer.stride, layer.stride],
        )

    def relu6(self, layer: Layer) -> None:
        bounds = ("zero", "six")
        if not self.has_tensor("six"):
            self.tensor("zero", np.float32(0))
            self.tensor("six", np.float32(6))
        self.node("Clip", f"{layer.name}/relu6", *bounds)

    def classifier(self, weights: LayerWeights) -> None:
        self.node("GlobalAveragePool", "pool")
        self.node("Flatten", "features", axis=1)
        kernel = self.tensor("classifier/kernel", weights.kernel)
        bias = self.tensor("classifier/bias", weights.bias)
        self.node("Gemm", "logits", kernel, bias, transB=1)
