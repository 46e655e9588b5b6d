"""Random MobileNets v1 as published files hold them: unfolded, in TensorFlow's layouts.

`RandomNetwork.probabilities` is the reference that importers and graph are held against. It is written
from TensorFlow's definitions and shares no code with `model_store`.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Kind = Literal["convolution", "depthwise", "pointwise"]

RESOLUTION = 128
EPSILON = 0.0123  # no format's default, so that one who does not read it is found out
# (output channels at alpha 0.25, stride of the depthwise convolution) of the 13 blocks.
_BLOCKS = (
    (16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2),
    (128, 1), (128, 1), (128, 1), (128, 1), (128, 1),
    (256, 2), (256, 1),
)  # fmt: skip
_STEM = 8


@dataclass(frozen=True)
class BatchNorm:
    """Four vectors [channels]."""

    gamma: Floats
    beta: Floats
    mean: Floats
    variance: Floats

    @classmethod
    def random(cls, rng: np.random.Generator, channels: int) -> Self:
        return cls(
            gamma=rng.uniform(0.6, 1.4, channels).astype(np.float32),
            beta=rng.normal(0.2, 0.3, channels).astype(np.float32),
            mean=rng.normal(0, 0.2, channels).astype(np.float32),
            variance=rng.uniform(0.05, 1.2, channels).astype(np.float32),
        )

    def scale(self, epsilon: float) -> npt.NDArray[np.float64]:
        return np.asarray(self.gamma / np.sqrt(self.variance.astype(np.float64) + epsilon))


@dataclass(frozen=True)
class Convolution:
    """`kernel` [k, k, in, out], or [k, k, channels, 1] where depthwise. `block` 0 is the stem."""

    kind: Kind
    block: int
    stride: int
    kernel: Floats
    norm: BatchNorm

    @property
    def keras_name(self) -> str:
        infix = {"convolution": "", "depthwise": "_dw_", "pointwise": "_pw_"}[self.kind]
        return "conv1" if self.kind == "convolution" else f"conv{infix}{self.block}"

    @property
    def slim_name(self) -> str:
        suffix = "" if self.kind == "convolution" else f"_{self.kind}"
        return f"Conv2d_{self.block}{suffix}"

    def folded(self, epsilon: float) -> tuple[Floats, Floats]:
        """(kernel, bias) with BatchNorm inside, in the same layout."""
        scale = self.norm.scale(epsilon)
        axes = scale[:, np.newaxis] if self.kind == "depthwise" else scale
        bias = self.norm.beta - self.norm.mean * scale
        return (self.kernel * axes).astype(np.float32), bias.astype(np.float32)


@dataclass(frozen=True)
class RandomNetwork:
    """MobileNet v1 0.25; `head` [256, classes] and `head_bias` [classes], background included."""

    convolutions: tuple[Convolution, ...]
    head: Floats
    head_bias: Floats
    epsilon: float = EPSILON
    resolution: int = RESOLUTION

    @classmethod
    def make(cls, classes: int = 1000, seed: int = 0, epsilon: float = EPSILON) -> Self:
        rng = np.random.default_rng(seed)
        convolutions = [_convolution(rng, "convolution", 0, 2, 3, _STEM)]
        channels = _STEM
        for block, (width, stride) in enumerate(_BLOCKS, start=1):
            convolutions.append(_convolution(rng, "depthwise", block, stride, channels, channels))
            convolutions.append(_convolution(rng, "pointwise", block, 1, channels, width))
            channels = width
        head = rng.normal(0, 0.2, (channels, classes)).astype(np.float32)
        return cls(tuple(convolutions), head, rng.normal(0, 0.5, classes).astype(np.float32), epsilon)

    @property
    def classes(self) -> int:
        return len(self.head_bias)

    def with_layer(self, index: int, convolution: Convolution | None) -> Self:
        """Another convolution at `index`, or none."""
        before, after = self.convolutions[:index], self.convolutions[index + 1 :]
        middle = () if convolution is None else (convolution,)
        return replace(self, convolutions=before + middle + after)

    def with_kernel(self, index: int, kernel: Floats) -> Self:
        return self.with_layer(index, replace(self.convolutions[index], kernel=kernel))

    def logits(self, images: Floats) -> Floats:
        """From [N, H, W, 3] in [-1, 1] to [N, classes]."""
        maps = images.astype(np.float64)
        for layer in self.convolutions:
            maps = _convolve(maps, layer.kernel, layer.stride, depthwise=layer.kind == "depthwise")
            maps = (maps - layer.norm.mean) * layer.norm.scale(self.epsilon) + layer.norm.beta
            maps = np.clip(maps, 0, 6)
        return np.asarray(maps.mean(axis=(1, 2)) @ self.head + self.head_bias, np.float32)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """From uint8 [N, H, W, 3] to softmax [N, classes], background included."""
        logits = self.logits((pixels / 127.5 - 1).astype(np.float32)).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def pictures(count: int = 3, resolution: int = RESOLUTION, seed: int = 0) -> npt.NDArray[np.uint8]:
    """uint8 [count, resolution, resolution, 3]: noise over a ramp, each picture another one."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, resolution)[:, np.newaxis, np.newaxis]
    tint = rng.uniform(-120, 120, (count, 1, 1, 3))
    noise = rng.normal(128, 50, (count, resolution, resolution, 3))
    return np.asarray((noise + tint * ramp).clip(0, 255), np.uint8)


def _convolution(
    rng: np.random.Generator, kind: Kind, block: int, stride: int, inputs: int, outputs: int
) -> Convolution:
    side = 1 if kind == "pointwise" else 3
    shape = (side, side, inputs, 1 if kind == "depthwise" else outputs)
    fan_in = side * side * (1 if kind == "depthwise" else inputs)
    kernel = rng.normal(0, np.sqrt(1 / fan_in), shape).astype(np.float32)
    return Convolution(kind, block, stride, kernel, BatchNorm.random(rng, outputs))


def _convolve(
    maps: npt.NDArray[np.float64], kernel: Floats, stride: int, *, depthwise: bool
) -> npt.NDArray[np.float64]:
    """TensorFlow's convolution with padding `SAME`: the odd row or column of zeros goes after."""
    side = kernel.shape[0]
    pads = []
    for size in maps.shape[1:3]:
        outputs = int(np.ceil(size / stride))
        total = max((outputs - 1) * stride + side - size, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(maps, ((0, 0), *pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]  # [N, rows, columns, channels, k, k]
    if depthwise:
        return np.asarray(np.einsum("nrcmyx,yxm->nrcm", windows, kernel[..., 0]))
    return np.asarray(np.tensordot(windows, kernel, axes=((4, 5, 3), (0, 1, 2))))
