"""From a detector's weights to the ONNX model that the store holds.

Input `image`: uint8 [N, H, W, 3] RGB. Outputs, anchor by anchor: `offsets` float32 [N, anchors, 4] and
`scores` float32 [N, anchors], the probability of a face. `boxes` makes boxes of them.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from model_store.architecture import Layer
from model_store.graph import FloatGraph
from model_store.graph_builder import PRODUCER, GraphBuilder
from model_store.quantized_graph import IntegerGraph
from model_store.ssd import PREDICTED_VALUES, FeatureMap, SsdSpec
from model_store.ssd_weights import DetectorWeights, QuantizedDetector, assemble
from model_store.weights import InputScaling, LayerWeights, WeightsError


def build_detector(weights: DetectorWeights, resolution: int) -> bytes:
    """Serialised ONNX for square pictures of `resolution` pixels; the same weights, the same bytes."""
    spec = SsdSpec(resolution)
    graph = _FloatDetector()
    graph.body(spec.convolutions, weights.convolutions, weights.scaling)
    for feature_map, tensors in zip(spec.maps, weights.predictors, strict=True):
        graph.go_back_to(f"{feature_map.layer}/relu6")
        graph.predict(feature_map, tensors)
    graph.answer(spec)
    return _serialised(graph, "ssd_mobilenet_v1", spec)


def build_quantized_detector(network: QuantizedDetector, resolution: int) -> bytes:
    """The same with the convolutions in integers."""
    spec = SsdSpec(resolution)
    graph = _IntegerDetector(network)
    tensors = {m.layer: weights for m, weights in zip(spec.maps, network.predictors, strict=True)}
    maps = {m.layer: m for m in spec.maps}
    graph.stem(spec.convolutions[0])
    for index, layer in enumerate(spec.convolutions[1:], start=1):
        graph.go_back_to(spec.convolutions[index - 1].name)
        graph.convolution(index, layer)
        if layer.name in maps:
            graph.in_float(index, layer)
            graph.predict(maps[layer.name], tensors[layer.name])
    graph.answer(spec)
    return _serialised(graph, "ssd_mobilenet_v1_int8", spec)


def read_detector(model: bytes) -> DetectorWeights:
    """The weights of a model that `build_detector` made. Raises WeightsError for any other."""
    proto = onnx.load_from_string(model)
    tensors = {t.name: np.array(numpy_helper.to_array(t)) for t in proto.graph.initializer}
    if proto.producer_name != PRODUCER or "input_zero" not in tensors:
        raise WeightsError("the model was not made by this program: its weights cannot be told")
    layers = {
        layer.name: LayerWeights(tensors[f"{layer.name}/kernel"], tensors[f"{layer.name}/bias"])
        for layer in SsdSpec(224).layers
        if {f"{layer.name}/kernel", f"{layer.name}/bias"} <= tensors.keys()
    }
    # The input's scale is in the first kernel already.
    return assemble(layers, scaling=InputScaling(scale=1.0, zero=float(tensors["input_zero"])))


class _Predictors(GraphBuilder):
    def predict(self, feature_map: FeatureMap, weights: LayerWeights) -> None:
        """From the map that the chain has come to, one row of values an anchor."""
        name = feature_map.predictor.name
        kernel = self.tensor(f"{name}/kernel", weights.kernel)
        bias = self.tensor(f"{name}/bias", weights.bias)
        self.node("Conv", name, kernel, bias, kernel_shape=[1, 1])
        self.node("Transpose", f"{name}/cells", perm=[0, 2, 3, 1])
        if not self.has_tensor("anchor_rows"):
            self.tensor("anchor_rows", np.array([0, -1, PREDICTED_VALUES], np.int64))
        self.node("Reshape", f"{name}/anchors", "anchor_rows")

    def answer(self, spec: SsdSpec) -> None:
        self.join("predictions", *(f"{m.predictor.name}/anchors" for m in spec.maps), axis=1)
        axis = self.tensor("value_axis", np.array([2], np.int64))
        start, first_score, end = (
            self.tensor(f"value_{i}", np.array([i], np.int64))
            for i in (0, PREDICTED_VALUES - 1, PREDICTED_VALUES)
        )
        self.node("Slice", "offsets", start, first_score, axis)
        self.go_back_to("predictions")
        self.node("Slice", "logits", first_score, end, axis)
        self.node("Squeeze", "anchor_logits", axis)
        self.node("Sigmoid", "scores")


class _FloatDetector(FloatGraph, _Predictors):
    pass


class _IntegerDetector(IntegerGraph, _Predictors):
    def in_float(self, index: int, layer: Layer) -> None:
        """What layer `index` wrote, which the chain has come to."""
        self.node("DequantizeLinear", f"{layer.name}/float", *self._scales[index + 1])


def _serialised(graph: GraphBuilder, name: str, spec: SsdSpec) -> bytes:
    outputs = {"offsets": [spec.anchors, 4], "scores": [spec.anchors]}
    model = graph.model(name, outputs, spec.resolution)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
