"""TensorFlow Lite, float or fully quantised; quantised weights are returned as the floats they stand for."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tflite

from model_store.architecture import MobileNetSpec
from model_store.weights import (
    SYMMETRIC_SCALING,
    FloatArray,
    InputScaling,
    LayerWeights,
    NetworkWeights,
    WeightsError,
    assemble,
)

# What flatbuffers' unchecked accessors raise on a damaged file.
_DAMAGE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, struct.error)
_FILE_IDENTIFIER = b"TFL3"
_DTYPES = {
    tflite.TensorType.FLOAT32: "<f4",
    tflite.TensorType.FLOAT16: "<f2",
    tflite.TensorType.INT32: "<i4",
    tflite.TensorType.INT8: "<i1",
    tflite.TensorType.UINT8: "<u1",
}


def load(path: Path) -> NetworkWeights:
    """Reads a MobileNet v1 from a `.tflite` file. Raises WeightsError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read") from error
    if data[4:8] != _FILE_IDENTIFIER:
        raise WeightsError(f"{path.name} is not a TensorFlow Lite file")
    try:
        # The accessors index into the file unchecked: a damaged one fails anywhere below.
        return _network(_Graph(data))
    except _DAMAGE as error:
        raise WeightsError(f"{path.name} is damaged: its tables do not hold together") from error


@dataclass(frozen=True, slots=True)
class _Operator:
    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


class _Graph:
    """The one subgraph of a model, by plain indices."""

    def __init__(self, data: bytes) -> None:
        self._model = tflite.Model.GetRootAs(data, 0)
        if self._model.SubgraphsLength() != 1:
            raise WeightsError("the model has several subgraphs, expected one")
        self._graph = self._model.Subgraphs(0)
        self._dequantized = {
            op.outputs[0]: op.inputs[0]
            for op in self.operators()
            if op.code == tflite.BuiltinOperator.DEQUANTIZE
        }

    def operators(self) -> Iterator[_Operator]:
        for i in range(self._graph.OperatorsLength()):
            op = self._graph.Operators(i)
            code = self._model.OperatorCodes(op.OpcodeIndex())
            yield _Operator(
                max(code.BuiltinCode(), code.DeprecatedBuiltinCode()),
                tuple(int(n) for n in op.InputsAsNumpy()),
                tuple(int(n) for n in op.OutputsAsNumpy()),
                op.BuiltinOptions(),
            )

    def input_shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self._graph.Tensors(self._graph.Inputs(0)).ShapeAsNumpy())

    def input_scaling(self) -> InputScaling:
        """A quantised input says itself what a pixel stands for; a float one is in [-1, 1]."""
        tensor = self._graph.Tensors(self._graph.Inputs(0))
        quantization = tensor.Quantization()
        if tensor.Type() == tflite.TensorType.FLOAT32 or quantization is None:
            return SYMMETRIC_SCALING
        scale = float(quantization.Scale(0))
        zero = float(quantization.ZeroPoint(0))
        if tensor.Type() == tflite.TensorType.INT8:
            zero += 128  # the converter moved the pixels to -128..127
        return InputScaling(scale, zero)

    def weights(self, index: int) -> FloatArray:
        """Tensor `index` as float32: real = scale * (stored - zero point), per tensor or channel."""
        tensor = self._graph.Tensors(self._dequantized.get(index, index))
        stored = self._stored(tensor)
        quantization = tensor.Quantization()
        if quantization is None or quantization.ScaleLength() == 0:
            return stored.astype(np.float32)
        scale = quantization.ScaleAsNumpy().astype(np.float64)
        zero = np.zeros(1) if quantization.ZeroPointLength() == 0 else quantization.ZeroPointAsNumpy()
        if scale.size > 1:
            axis = quantization.QuantizedDimension()
            shape = [-1 if i == axis else 1 for i in range(stored.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape) if zero.size > 1 else zero
        return np.asarray((stored.astype(np.float64) - zero) * scale, np.float32)

    def _stored(self, tensor: Any) -> npt.NDArray[np.generic]:
        dtype = _DTYPES.get(tensor.Type())
        data = self._model.Buffers(tensor.Buffer()).DataAsNumpy()
        if dtype is None or isinstance(data, int):  # the accessor's 0 for "no data"
            raise WeightsError(f"tensor {tensor.Name()!r} holds no weights")
        return np.asarray(data.view(dtype).reshape(tuple(tensor.ShapeAsNumpy())))


def _network(graph: _Graph) -> NetworkWeights:
    _, height, width, channels = graph.input_shape()
    if height != width or channels != 3:
        raise WeightsError(f"the input is {height}x{width}x{channels}, expected a square of 3 channels")
    expected = MobileNetSpec(1.0, height).layers
    operators = [
        op
        for op in graph.operators()
        if op.code in (tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.DEPTHWISE_CONV_2D)
    ]
    layers: dict[str, LayerWeights] = {}
    for layer, op in zip(expected, operators, strict=False):
        depthwise = op.code == tflite.BuiltinOperator.DEPTHWISE_CONV_2D
        if depthwise != (layer.kind == "depthwise"):
            raise WeightsError(f"operator {len(layers)} is not the {layer.name} of a MobileNet v1")
        if layer.kind != "dense":
            _check_options(op, layer.name, depthwise)
        kernel, bias = graph.weights(op.inputs[1]), graph.weights(op.inputs[2])
        # TFLite: [out, k, k, in] for convolutions, [1, k, k, channels] for depthwise ones.
        kernel = kernel.transpose(3, 0, 1, 2) if depthwise else kernel.transpose(0, 3, 1, 2)
        if layer.kind == "dense":
            kernel = kernel.reshape(kernel.shape[:2])
        layers[layer.name] = LayerWeights(np.ascontiguousarray(kernel), bias)
    return assemble(layers, scaling=graph.input_scaling(), trained_resolution=height)


def _check_options(op: _Operator, name: str, depthwise: bool) -> None:
    options = tflite.DepthwiseConv2DOptions() if depthwise else tflite.Conv2DOptions()
    options.Init(op.options.Bytes, op.options.Pos)
    if options.FusedActivationFunction() != tflite.ActivationFunctionType.RELU6:
        raise WeightsError(f"layer {name} has no ReLU6")
    if options.Padding() != tflite.Padding.SAME:
        raise WeightsError(f"layer {name} does not pad SAME")
