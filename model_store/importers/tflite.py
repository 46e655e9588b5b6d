"""TensorFlow Lite, float or fully quantised; quantised weights are returned as the floats they stand for."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tflite

from model_store.architecture import Layer, MobileNetSpec
from model_store.weights import (
    SYMMETRIC_SCALING,
    FloatArray,
    InputScaling,
    LayerWeights,
    NetworkWeights,
    WeightsError,
    assemble,
)

T = TypeVar("T")
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
    return read(path, _network)


def read(path: Path, parse: Callable[["Graph"], T]) -> T:
    """What `parse` makes of the file's graph. Raises WeightsError, for damage too."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read") from error
    if data[4:8] != _FILE_IDENTIFIER:
        raise WeightsError(f"{path.name} is not a TensorFlow Lite file")
    try:
        # The accessors index into the file unchecked: a damaged one fails anywhere below.
        return parse(Graph(data))
    except _DAMAGE as error:
        raise WeightsError(f"{path.name} is damaged: its tables do not hold together") from error


@dataclass(frozen=True, slots=True)
class Operator:
    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


class Graph:
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

    def operators(self) -> Iterator[Operator]:
        for i in range(self._graph.OperatorsLength()):
            op = self._graph.Operators(i)
            code = self._model.OperatorCodes(op.OpcodeIndex())
            yield Operator(
                max(code.BuiltinCode(), code.DeprecatedBuiltinCode()),
                tuple(int(n) for n in op.InputsAsNumpy()),
                tuple(int(n) for n in op.OutputsAsNumpy()),
                op.BuiltinOptions(),
            )

    def input_shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self._graph.Tensors(self._graph.Inputs(0)).ShapeAsNumpy())

    def input_scaling(self) -> InputScaling:
        """A quantised input says itself what a pixel stands for; a float one is in [-1, 1]."""
        if not self.is_quantized(self.input_index):
            return SYMMETRIC_SCALING
        scale, zero = self.activation(self.input_index)
        return InputScaling(scale, float(zero))

    @property
    def input_index(self) -> int:
        return int(self._graph.Inputs(0))

    def is_quantized(self, index: int) -> bool:
        tensor = self._graph.Tensors(index)
        quantization = tensor.Quantization()
        stored = tensor.Type() in (tflite.TensorType.UINT8, tflite.TensorType.INT8)
        return stored and quantization is not None and quantization.ScaleLength() > 0

    def activation(self, index: int) -> tuple[float, int]:
        """(scale, zero) of a quantised tensor of pixels or feature maps, as bytes from 0 to 255."""
        tensor = self._graph.Tensors(index)
        quantization = tensor.Quantization()
        zero = int(quantization.ZeroPoint(0)) if quantization.ZeroPointLength() else 0
        if tensor.Type() == tflite.TensorType.INT8:
            zero += 128  # the converter moved them to -128..127
        scale = float(quantization.Scale(0))
        if not 0 < scale < float("inf") or not 0 <= zero <= 255:
            raise WeightsError(f"tensor {tensor.Name()!r} has a scale of {scale} and a zero point of {zero}")
        return scale, zero

    def integers(self, index: int) -> tuple[npt.NDArray[np.generic], FloatArray, int]:
        """(stored values, scale or scales, zero) of quantised weights or biases."""
        tensor = self._graph.Tensors(index)
        quantization = tensor.Quantization()
        zeros = {int(z) for z in np.atleast_1d(quantization.ZeroPointAsNumpy())}
        if len(zeros) > 1:
            raise WeightsError(f"tensor {tensor.Name()!r} has several zero points")
        stored, zero = self._stored(tensor), zeros.pop()
        limits = np.iinfo(stored.dtype.name)
        if not limits.min <= zero <= limits.max:
            raise WeightsError(f"tensor {tensor.Name()!r} of {stored.dtype} has a zero point of {zero}")
        return stored, quantization.ScaleAsNumpy().astype(np.float32), zero

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


def weighted_operators(graph: Graph) -> Iterator[tuple[Layer, Operator]]:
    """The layers of a MobileNet v1, each with its operator, as far as the file has them."""
    _, height, width, channels = graph.input_shape()
    if height != width or channels != 3:
        raise WeightsError(f"the input is {height}x{width}x{channels}, expected a square of 3 channels")
    operators = [
        op
        for op in graph.operators()
        if op.code in (tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.DEPTHWISE_CONV_2D)
    ]
    for index, (layer, op) in enumerate(zip(MobileNetSpec(1.0, height).layers, operators, strict=False)):
        depthwise = op.code == tflite.BuiltinOperator.DEPTHWISE_CONV_2D
        if depthwise != (layer.kind == "depthwise"):
            raise WeightsError(f"operator {index} is not the {layer.name} of a MobileNet v1")
        if layer.kind != "dense":
            _check_options(op, layer.name, depthwise)
        yield layer, op


def onnx_kernel(layer: Layer, kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """TFLite's [out, k, k, in], or [1, k, k, channels] where depthwise, in ONNX's order."""
    turned = kernel.transpose(3, 0, 1, 2) if layer.kind == "depthwise" else kernel.transpose(0, 3, 1, 2)
    if layer.kind == "dense":
        turned = turned.reshape(turned.shape[:2])
    return np.ascontiguousarray(turned)


def _network(graph: Graph) -> NetworkWeights:
    layers = {
        layer.name: LayerWeights(onnx_kernel(layer, graph.weights(op.inputs[1])), graph.weights(op.inputs[2]))
        for layer, op in weighted_operators(graph)
    }
    resolution = graph.input_shape()[1]
    return assemble(layers, scaling=graph.input_scaling(), trained_resolution=resolution)


def _check_options(op: Operator, name: str, depthwise: bool) -> None:
    options = tflite.DepthwiseConv2DOptions() if depthwise else tflite.Conv2DOptions()
    options.Init(op.options.Bytes, op.options.Pos)
    if options.FusedActivationFunction() != tflite.ActivationFunctionType.RELU6:
        raise WeightsError(f"layer {name} has no ReLU6")
    if options.Padding() != tflite.Padding.SAME:
        raise WeightsError(f"layer {name} does not pad SAME")
