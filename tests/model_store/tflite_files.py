"""A random network as a complete TensorFlow Lite file that TensorFlow Lite's interpreter runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite
from tflite import BuiltinOperator as Op
from tflite import TensorType

from tests.networks import Floats, RandomNetwork

Storage = Literal["float32", "float16", "uint8", "int8"]
Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Scaling:
    """real = scale * (stored - zero), with one scale a tensor or one an index of `axis`."""

    scales: tuple[float, ...]
    zero: int
    axis: int = 0


@dataclass
class _Tensor:
    shape: tuple[int, ...]
    kind: int
    data: Array | None = None
    scaling: Scaling | None = None


@dataclass
class _Operator:
    code: int
    inputs: Sequence[int]
    outputs: Sequence[int]
    options_type: int
    options: int | None


_RELU6_OUTPUT = Scaling((6 / 255,), 0)
# Coral's checkpoints take pixels as (pixel - 128) / 128; slim's conversion of TensorFlow 1 did.
_PIXELS = Scaling((1 / 128,), 128)
_LOGITS = Scaling((0.16,), 128)  # random heads reach 20


def write_tflite(
    path: Path,
    network: RandomNetwork,
    *,
    storage: Storage = "float32",
    relu6: bool = True,
    same: bool = True,
    pixels: Scaling = _PIXELS,
) -> Path:
    """BatchNorm folded, layers fused with ReLU6, average pool, 1x1 convolution head, softmax.

    `float16` keeps weights as half floats before DEQUANTIZE operators; `uint8` is fully quantised, one
    scale a tensor, as TensorFlow 1 did it; `int8` as TensorFlow 2 does it, one scale a channel and all
    activations, pixels among them, moved down by 128. `pixels` is the input's scaling before that.
    """
    path.write_bytes(_Writer(storage, pixels).write(network, relu6=relu6, same=same))
    return path


class _Writer:
    def __init__(self, storage: Storage, pixels: Scaling) -> None:
        self._storage = storage
        self._pixels = pixels
        self._builder = flatbuffers.Builder(1 << 20)
        self._tensors: list[_Tensor] = []
        self._operators: list[_Operator] = []

    def write(self, network: RandomNetwork, *, relu6: bool, same: bool) -> bytes:
        padding = tflite.Padding.SAME if same else tflite.Padding.VALID
        activation = tflite.ActivationFunctionType.RELU6 if relu6 else tflite.ActivationFunctionType.NONE
        side = network.resolution
        last = first = self._activation((1, side, side, 3), self._pixels)
        for layer in network.convolutions:
            kernel, bias = layer.folded(network.epsilon)
            depthwise = layer.kind == "depthwise"
            side = -(-side // layer.stride)
            output = self._activation((1, side, side, len(bias)), _RELU6_OUTPUT)
            # [1, k, k, channels] for depthwise convolutions, else [out, k, k, in].
            stored = kernel.transpose(3, 0, 1, 2)
            axis = 3 if depthwise else 0
            inputs = [last, *self._weights(stored, bias, last, axis)]
            self._convolution(inputs, output, layer.stride, padding, activation, depthwise=depthwise)
            last = output
        channels, classes = network.head.shape
        pooled = self._activation((1, 1, 1, channels), _RELU6_OUTPUT)
        self._pool(last, pooled, side)
        logits = self._activation((1, 1, 1, classes), _LOGITS)
        head = network.head.T[:, np.newaxis, np.newaxis]
        inputs = [pooled, *self._weights(head, network.head_bias, pooled, axis=0)]
        none = tflite.ActivationFunctionType.NONE
        self._convolution(inputs, logits, 1, tflite.Padding.SAME, none, depthwise=False)
        flat = self._activation((1, classes), _LOGITS)
        shape = self._add(_Tensor((2,), TensorType.INT32, np.array([1, classes], "<i4")))
        self._operators.append(_Operator(Op.RESHAPE, [logits, shape], [flat], 0, None))
        scores = self._activation((1, classes), Scaling((1 / 256,), 0))
        self._softmax(flat, scores)
        return self._finish(first, scores)

    def _add(self, tensor: _Tensor) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _activation(self, shape: tuple[int, ...], scaling: Scaling) -> int:
        if self._storage == "uint8":
            return self._add(_Tensor(shape, TensorType.UINT8, scaling=scaling))
        if self._storage == "int8":
            moved = replace(scaling, zero=scaling.zero - 128)
            return self._add(_Tensor(shape, TensorType.INT8, scaling=moved))
        return self._add(_Tensor(shape, TensorType.FLOAT32))

    def _weights(self, kernel: Floats, bias: Floats, source: int, axis: int) -> list[int]:
        """Indices of kernel and bias, in the wanted storage."""
        inputs = self._tensors[source].scaling
        if inputs is None:
            return [self._float(kernel), self._float(bias)]
        stored: Array
        if self._storage == "uint8":
            kind, (stored, scaling) = TensorType.UINT8, quantize(kernel)
        else:
            kind, (stored, scaling) = TensorType.INT8, quantize_channels(kernel, axis)
        scales = inputs.scales[0] * np.asarray(scaling.scales)
        integers = np.round(bias / scales).astype("<i4")
        return [
            self._add(_Tensor(kernel.shape, kind, stored, scaling)),
            self._add(_Tensor(bias.shape, TensorType.INT32, integers, Scaling(tuple(scales), 0))),
        ]

    def _float(self, values: Floats) -> int:
        if self._storage == "float32":
            return self._add(_Tensor(values.shape, TensorType.FLOAT32, values.astype("<f4")))
        half = self._add(_Tensor(values.shape, TensorType.FLOAT16, values.astype("<f2")))
        full = self._add(_Tensor(values.shape, TensorType.FLOAT32))
        self._operators.append(_Operator(Op.DEQUANTIZE, [half], [full], 0, None))
        return full

    def _convolution(
        self, inputs: list[int], output: int, stride: int, padding: int, activation: int, *, depthwise: bool
    ) -> None:
        kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        fields = {"Padding": padding, "StrideW": stride, "StrideH": stride}
        fields |= {"FusedActivationFunction": activation, "DilationWFactor": 1, "DilationHFactor": 1}
        if depthwise:
            fields["DepthMultiplier"] = 1
        code = Op.DEPTHWISE_CONV_2D if depthwise else Op.CONV_2D
        self._operator(code, inputs, output, kind, fields)

    def _pool(self, source: int, output: int, side: int) -> None:
        fields = {"Padding": tflite.Padding.VALID, "StrideW": side, "StrideH": side}
        fields |= {"FilterWidth": side, "FilterHeight": side}
        self._operator(Op.AVERAGE_POOL_2D, [source], output, "Pool2DOptions", fields)

    def _softmax(self, source: int, output: int) -> None:
        self._operator(Op.SOFTMAX, [source], output, "SoftmaxOptions", {"Beta": 1.0})

    def _operator(
        self, code: int, inputs: list[int], output: int, kind: str, fields: Mapping[str, int | float]
    ) -> None:
        options = self._table(kind, fields)
        options_type = getattr(tflite.BuiltinOptions, kind)
        self._operators.append(_Operator(code, inputs, [output], options_type, options))

    def _table(self, kind: str, fields: Mapping[str, Any]) -> int:
        getattr(tflite, f"{kind}Start")(self._builder)
        for name, value in fields.items():
            getattr(tflite, f"{kind}Add{name}")(self._builder, value)
        return int(getattr(tflite, f"{kind}End")(self._builder))

    def _offsets(self, start: Any, offsets: Sequence[int]) -> int:
        start(self._builder, len(offsets))
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def _numbers(self, values: Sequence[float] | Array, dtype: str) -> int:
        return int(self._builder.CreateNumpyVector(np.asarray(values, dtype)))

    def _quantization(self, scaling: Scaling | None) -> dict[str, int]:
        if scaling is None:
            return {}
        zeros = [scaling.zero] * len(scaling.scales)
        fields = {"Scale": self._numbers(scaling.scales, "<f4"), "ZeroPoint": self._numbers(zeros, "<i8")}
        fields["QuantizedDimension"] = scaling.axis
        return {"Quantization": self._table("QuantizationParameters", fields)}

    def _finish(self, first: int, last: int) -> bytes:
        builder = self._builder
        buffers, tensors = [self._table("Buffer", {})], []
        for index, tensor in enumerate(self._tensors):
            buffer = 0
            if tensor.data is not None:
                data = self._numbers(np.frombuffer(tensor.data.tobytes(), "<u1"), "<u1")
                buffers.append(self._table("Buffer", {"Data": data}))
                buffer = len(buffers) - 1
            name = builder.CreateString(f"tensor_{index}")
            fields = {"Shape": self._numbers(tensor.shape, "<i4"), "Type": tensor.kind}
            fields |= {"Buffer": buffer, "Name": name, **self._quantization(tensor.scaling)}
            tensors.append(self._table("Tensor", fields))
        codes = sorted({operator.code for operator in self._operators})
        code_tables = [
            self._table("OperatorCode", {"DeprecatedBuiltinCode": c, "BuiltinCode": c, "Version": 1})
            for c in codes
        ]
        operators = []
        for op in self._operators:
            fields = {"OpcodeIndex": codes.index(op.code), "Inputs": self._numbers(op.inputs, "<i4")}
            fields["Outputs"] = self._numbers(op.outputs, "<i4")
            if op.options is not None:
                fields |= {"BuiltinOptionsType": op.options_type, "BuiltinOptions": op.options}
            operators.append(self._table("Operator", fields))
        fields = {
            "Tensors": self._offsets(tflite.SubGraphStartTensorsVector, tensors),
            "Inputs": self._numbers([first], "<i4"),
            "Outputs": self._numbers([last], "<i4"),
            "Operators": self._offsets(tflite.SubGraphStartOperatorsVector, operators),
        }
        subgraph = self._table("SubGraph", fields)
        fields = {
            "Version": 3,
            "OperatorCodes": self._offsets(tflite.ModelStartOperatorCodesVector, code_tables),
            "Subgraphs": self._offsets(tflite.ModelStartSubgraphsVector, [subgraph]),
            "Buffers": self._offsets(tflite.ModelStartBuffersVector, buffers),
        }
        builder.Finish(self._table("Model", fields), b"TFL3")
        return bytes(builder.Output())


def quantize(values: Floats) -> tuple[npt.NDArray[np.uint8], Scaling]:
    """uint8 with one scale and zero point over the tensor's range, zero included."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    # The file keeps scales as float32.
    scale = float(np.float32((high - low) / 255))
    zero = round(-low / scale)
    stored = np.round(values / np.float64(scale)) + zero
    return stored.clip(0, 255).astype(np.uint8), Scaling((scale,), zero)


def quantize_channels(values: Floats, axis: int) -> tuple[npt.NDArray[np.int8], Scaling]:
    """int8 around zero, with one scale an index of `axis`."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scales = np.abs(values).max(axis=others, keepdims=True) / np.float32(127)
    stored = np.round(values / scales).astype(np.int8)
    return stored, Scaling(tuple(float(scale) for scale in scales.flat), 0, axis)
