"""A quantised network as the integers that it computes with.

Activations are uint8 with one scale a tensor; ReLU6 is the two ends of their range, and the picture's bytes
are the first of them. `logits` says, in numpy, what every runtime has to answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from model_store.architecture import Layer, MobileNetSpec
from model_store.weights import FloatArray

Kernel = npt.NDArray[np.int8] | npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Quantization:
    """real = scale * (stored - zero), stored in 0 to 255."""

    scale: float
    zero: int


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeights:
    """Of one layer. `kernel` has the shape that `LayerWeights` says, as int8 or uint8.

    A weight is scale * (kernel - zero) with `scale` [out]; `bias` [out], int32, counts in steps of the
    input's scale * `scale`.
    """

    kernel: Kernel
    zero: int
    scale: FloatArray
    bias: npt.NDArray[np.int32]


class QuantizedChain(Protocol):
    """Layers that follow one another: `layers[i]` reads `activations[i]` and writes `activations[i + 1]`."""

    @property
    def layers(self) -> tuple[QuantizedWeights, ...]: ...

    @property
    def activations(self) -> tuple[Quantization, ...]: ...


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedNetwork:
    """Weights in the order of `MobileNetSpec.layers`.

    `activations[i]` is what layer i reads; a convolution writes `activations[i + 1]`, and the classifier
    real logits. The average over the last maps keeps their quantisation.
    """

    alpha: float
    layers: tuple[QuantizedWeights, ...]
    activations: tuple[Quantization, ...]
    background: bool
    trained_resolution: int | None

    @property
    def classes(self) -> int:
        """Number of classes without the background."""
        return int(self.layers[-1].bias.shape[0]) - self.background

    def spec(self, resolution: int) -> MobileNetSpec:
        """Of all outputs, the background among them."""
        return MobileNetSpec(self.alpha, resolution, self.classes + self.background)


def logits(network: QuantizedNetwork, pixels: Bytes) -> FloatArray:
    """From uint8 [N, H, W, 3] to float32 [N, outputs]."""
    maps = pixels
    *convolutions, _ = network.spec(pixels.shape[1]).layers
    for i, layer in enumerate(convolutions):
        source, target = network.activations[i : i + 2]
        sums = accumulate(layer, network.layers[i], maps, source)
        maps = requantize(network.layers[i], sums, source, target)
    last, classifier = network.activations[-1], network.layers[-1]
    pooled = np.rint(maps.mean(axis=(1, 2), dtype=np.float64)) - last.zero
    kernel = classifier.kernel.astype(np.float64) - classifier.zero
    steps = last.scale * classifier.scale.astype(np.float64)
    return np.asarray((pooled @ kernel.T + classifier.bias) * steps, np.float32)


def accumulate(layer: Layer, weights: QuantizedWeights, maps: Bytes, source: Quantization) -> FloatArray:
    """The convolution's sums without bias: whole numbers, exact in float32 up to 2^24."""
    kernel = weights.kernel.astype(np.float32) - np.float32(weights.zero)
    return convolve(layer, kernel, maps.astype(np.float32) - np.float32(source.zero))


def requantize(
    weights: QuantizedWeights, sums: FloatArray, source: Quantization, target: Quantization
) -> Bytes:
    """From sums to the next maps: bias, one multiplication, rounding to even, and ReLU6."""
    ratio = np.float32(source.scale) * weights.scale / np.float32(target.scale)
    scaled = np.rint((sums.astype(np.int32) + weights.bias).astype(np.float32) * ratio)
    return np.asarray(np.clip(scaled + target.zero, 0, 255), np.uint8)


def convolve(layer: Layer, kernel: FloatArray, maps: FloatArray) -> FloatArray:
    """[N, H, W, in] to [N, h, w, out], padded with zeros as TensorFlow's `SAME`."""
    if layer.kind == "pointwise":
        return np.asarray(maps @ np.ascontiguousarray(kernel[:, :, 0, 0].T))
    if layer.kind == "depthwise":
        shape = (maps.shape[0], layer.out_size, layer.out_size, layer.out_channels)
        sums = np.zeros(shape, np.float32)
        taps = np.ascontiguousarray(kernel.reshape(layer.out_channels, -1).T)
        for tap, window in zip(taps, _windows(layer, maps), strict=True):
            sums += window * tap
        return sums
    rows = kernel.transpose(0, 2, 3, 1).reshape(layer.out_channels, -1)
    return np.asarray(np.concatenate(list(_windows(layer, maps)), axis=-1) @ np.ascontiguousarray(rows.T))


def _windows(layer: Layer, maps: FloatArray) -> Iterator[FloatArray]:
    """For each place of the kernel, the pixels that it meets."""
    before, after = layer.padding
    padded = np.pad(maps, ((0, 0), (before, after), (before, after), (0, 0)))
    span = (layer.out_size - 1) * layer.stride + 1
    for row in range(layer.kernel):
        for column in range(layer.kernel):
            yield padded[:, row : row + span : layer.stride, column : column + span : layer.stride]
