"""From float weights to int8, without data: what is measured on the way is measured on drawn pictures.

- Activations are uint8 from 0 to 6: the range of ReLU6, so that clipping to it costs nothing.
- Weights are int8 with one scale a channel, and no two that a processor sums in 16 bits can overflow
  (`PAIR_LIMIT`): every processor gives the same answer.
- The picture's bytes are the first activations. Their zero is a whole number where the network's is 127.5;
  the first bias takes the difference up. Padding, at the right and the bottom, is off by half a grey level.
- Each bias is corrected so that, over `drawn_pictures`, the mean before ReLU6 is that of the float network
  (arXiv 1906.04721, section 4.2, with pictures in place of BatchNorm's statistics). The layers before are
  the quantised ones, so that errors do not add up.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from model_store.architecture import Layer
from model_store.quantized import (
    Bytes,
    Quantization,
    QuantizedNetwork,
    QuantizedWeights,
    accumulate,
    convolve,
    requantize,
)
from model_store.weights import FloatArray, InputScaling, LayerWeights, NetworkWeights

METHOD = (
    "weights int8, one scale a channel, sums of pairs within 128; activations uint8 in [0, 6]; "
    "biases corrected on drawn pictures"
)

# vpmaddubsw of x86 before VNNI adds two products of uint8 and int8 in 16 bits, and cuts off what does not
# fit. 255 * 128 fits: two weights of one sign that are neighbours along the summed axis may have this sum.
PAIR_LIMIT = 128
_MAX_WEIGHT = 127
RELU6 = Quantization(6 / 255, 0)
_MAX_BIAS = 1 << 24  # above, float32 has no room for single steps

_Doubles = npt.NDArray[np.float64]
_Reals = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class ChainStep:
    """A quantised layer, and the maps behind its ReLU6: the float network's and its own, which are RELU6."""

    weights: QuantizedWeights
    real: FloatArray
    maps: Bytes


def quantize(weights: NetworkWeights, pictures: Bytes) -> QuantizedNetwork:
    """Quantises `weights`; `pictures`, uint8 [N, H, W, 3], have the resolution that it is meant for."""
    *convolutions, dense = weights.spec(pictures.shape[1]).layers
    with one_thread():
        chain = quantize_chain(convolutions, weights.layers[:-1], weights.scaling, pictures)
        layers = []
        for step in chain:
            layers.append(step.weights)
        classifier = weights.layers[-1]
        kernel, scale = _quantize_kernel(dense, classifier, RELU6.scale)
        wanted = classifier.kernel @ channel_means(step.real) + classifier.bias
        found = kernel @ channel_means(step.maps)
    layers.append(QuantizedWeights(kernel, 0, scale, _bias(wanted, found, RELU6.scale * scale)))
    activations = (picture_quantization(weights.scaling), *(RELU6 for _ in convolutions))
    return QuantizedNetwork(
        weights.alpha, tuple(layers), activations, weights.background, weights.trained_resolution
    )


def quantize_chain(
    layers: Sequence[Layer], weights: Sequence[LayerWeights], scaling: InputScaling, pictures: Bytes
) -> Iterator[ChainStep]:
    """Quantises convolutions that follow one another from the pictures on, each with ReLU6 behind it."""
    source = picture_quantization(scaling)
    real = (pictures.astype(np.float32) - np.float32(scaling.zero)) * np.float32(source.scale)
    maps = pictures
    for layer, tensors in zip(layers, weights, strict=True):
        before = convolve(layer, tensors.kernel, real) + tensors.bias
        kernel, scale = _quantize_kernel(layer, tensors, source.scale)
        unbiased = QuantizedWeights(kernel, 0, scale, np.zeros(len(scale), np.int32))
        sums = accumulate(layer, unbiased, maps, source)
        bias = _bias(channel_means(before), channel_means(sums), source.scale * scale)
        quantized = replace(unbiased, bias=bias)
        maps = requantize(quantized, sums, source, RELU6)
        real, source = np.clip(before, 0, 6), RELU6
        yield ChainStep(quantized, real, maps)


def picture_quantization(scaling: InputScaling) -> Quantization:
    """The picture's bytes as the first activations."""
    return Quantization(scaling.scale, round(scaling.zero))


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads of BLAS wait for one another in a loop: on a busy machine one takes 0.8 s, two take 40."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def channel_means(values: FloatArray | Bytes) -> _Doubles:
    """Over all but the channels."""
    return np.asarray(values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=np.float64))


def _quantize_kernel(
    layer: Layer, weights: LayerWeights, input_scale: float
) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """int8 around zero and one scale a channel, as fine as the layer's sums allow."""
    shape = weights.kernel.shape
    # In the order in which runtimes sum: channels last.
    axes = (0, 2, 3, 1) if weights.kernel.ndim == 4 else (0, 1)
    kernel = weights.kernel.transpose(axes).astype(np.float64)
    rows = kernel.reshape(shape[0], -1)
    steps = np.abs(rows).max(axis=1) / _MAX_WEIGHT
    if layer.kind != "depthwise":  # which no processor sums in 16 bits
        # One less than the limit: rounding may add a half to each.
        steps = np.maximum(steps, _largest_pair(rows, layer) / (PAIR_LIMIT - 1))
    steps = np.maximum(steps, np.abs(weights.bias) / (input_scale * _MAX_BIAS))
    # As a float32 a smaller step would be 0, or rounded to another.
    scale = np.where(steps > np.finfo(np.float32).tiny, steps, 1).astype(np.float32)
    stored = np.rint(rows / scale[:, np.newaxis]).astype(np.int8).reshape(kernel.shape)
    return np.ascontiguousarray(stored.transpose(np.argsort(axes))), scale


def _bias(wanted: _Reals, sums: _Reals, steps: _Reals) -> npt.NDArray[np.int32]:
    """What makes the mean of `sums` the mean that is wanted."""
    return np.asarray(np.clip(np.rint(wanted / steps - sums), -_MAX_BIAS, _MAX_BIAS), np.int32)


def _largest_pair(rows: _Doubles, layer: Layer) -> npt.NDArray[np.float64]:
    """By row, the largest sum of two neighbours of one sign.

    Runtimes pair the first with the second, the third with the fourth; where the axis runs over several
    places of a kernel they do not agree on its order, so that any two count.
    """
    largest = np.zeros(rows.shape[0])
    for sign in (1, -1):
        values = np.maximum(sign * rows, 0)
        if layer.kind == "convolution":
            pairs = np.sort(values, axis=1)[:, -2:].sum(axis=1)
        else:
            padded = np.pad(values, ((0, 0), (0, values.shape[1] % 2)))
            pairs = (padded[:, 0::2] + padded[:, 1::2]).max(axis=1)
        largest = np.maximum(largest, pairs)
    return largest
