"""A fully quantised TensorFlow Lite file as the integers that it holds, with its own ranges."""

from pathlib import Path

import numpy as np

from model_store.importers import tflite
from model_store.quantized import Quantization, QuantizedNetwork, QuantizedWeights
from model_store.weights import LayerWeights, WeightsError, assemble


def load(path: Path) -> QuantizedNetwork | None:
    """None where the pixels go in as floats. Raises WeightsError."""
    return tflite.read(path, _network)


def _network(graph: tflite.Graph) -> QuantizedNetwork | None:
    if not graph.is_quantized(graph.input_index):
        return None
    activations = [Quantization(*graph.activation(graph.input_index))]
    layers, floats = [], {}
    for layer, op in tflite.weighted_operators(graph):
        stored, scale, zero = graph.integers(op.inputs[1])
        kernel = tflite.onnx_kernel(layer, stored)
        bias = graph.integers(op.inputs[2])[0].astype(np.int32)
        scales = np.broadcast_to(scale, bias.shape).astype(np.float32)
        layers.append(QuantizedWeights(kernel, zero, scales, bias))
        floats[layer.name] = LayerWeights(kernel.astype(np.float32), bias.astype(np.float32))
        if layer.kind != "dense":
            activations.append(_relu6(layer.name, *graph.activation(op.outputs[0])))
    # Shapes, classes and alpha are checked where those of all files are.
    checked = assemble(floats, trained_resolution=graph.input_shape()[1])
    return QuantizedNetwork(
        checked.alpha, tuple(layers), tuple(activations), checked.background, checked.trained_resolution
    )


def _relu6(layer: str, scale: float, zero: int) -> Quantization:
    """ReLU6 has to be what the two ends of the range do, to less than a step."""
    if zero != 0 or 6 / scale < 254.5:
        raise WeightsError(
            f"the range of layer {layer} is wider than ReLU6; import it with --dequantize instead"
        )
    return Quantization(scale, zero)
