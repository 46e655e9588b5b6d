"""The MobileNet v1 body of the paper (arXiv 1704.04861, table 1) and what it costs.

Pure arithmetic: no weights, no files. Mult-adds and parameters follow the paper's equations 2 to 7:
they count the kernels of convolutions and of the classifier, not biases and not BatchNorm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ALPHAS: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
RESOLUTIONS: tuple[int, ...] = (224, 192, 160, 128)

LayerKind = Literal["convolution", "depthwise", "pointwise", "dense"]
Body = Literal["separable", "shallow", "full"]

# (output channels at alpha 1.0, stride) of the 13 depthwise separable blocks after the stem.
_STEM_CHANNELS = 32
_BLOCKS: tuple[tuple[int, int], ...] = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
_SHALLOW_BLOCKS = _BLOCKS[:6] + _BLOCKS[11:]  # section 4.1: without the five 14x14x512 layers


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) padding of TensorFlow's `SAME`: at stride 2 on even sizes it is (0, 1)."""
    output = -(-size // stride)
    total = max((output - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True, slots=True)
class Layer:
    """One weighted layer; `in_size` and `out_size` are the feature map's side (D_F in the paper)."""

    name: str
    kind: LayerKind
    kernel: int
    stride: int
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int

    @property
    def padding(self) -> tuple[int, int]:
        return same_padding(self.in_size, self.kernel, self.stride)

    @property
    def parameters(self) -> int:
        """Kernel weights: D_K^2 M for a depthwise filter, D_K^2 M N otherwise."""
        outputs = 1 if self.kind == "depthwise" else self.out_channels
        return self.kernel**2 * self.in_channels * outputs

    @property
    def mult_adds(self) -> int:
        """Each kernel weight is used once at every place of the output map (equations 2 to 5)."""
        return self.parameters * self.out_size**2


@dataclass(frozen=True, slots=True)
class MobileNetSpec:
    """A MobileNet v1 of width multiplier `alpha` for square inputs of `resolution` pixels.

    `body` is `separable` (the MobileNet), `shallow` (table 5) or `full` (table 4: ordinary 3x3
    convolutions in place of the separable ones). Raises ValueError for sizes that cannot be built.
    """

    alpha: float
    resolution: int
    classes: int = 1000
    body: Body = "separable"

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"the width multiplier alpha is in (0, 1], not {self.alpha}")
        if self.resolution < 32:
            raise ValueError(f"the resolution is at least 32 pixels, not {self.resolution}")
        if self.classes < 1:
            raise ValueError(f"a classifier has at least one class, not {self.classes}")

    @property
    def rho(self) -> float:
        """The resolution multiplier: resolution / 224."""
        return self.resolution / 224

    @property
    def features(self) -> int:
        """Width of the pooled feature vector: 1024 alpha."""
        return self._width(_BLOCKS[-1][0])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The weighted layers from picture to logits: 28 in the MobileNet."""
        return tuple(self._layers())

    @property
    def mult_adds(self) -> int:
        return sum(layer.mult_adds for layer in self.layers)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def checkpoint_parameters(self) -> int:
        """Parameters as the official checkpoints count them.

        The kernels, a background class, the classifier's biases, and three BatchNorm vectors a channel:
        the reading that gives all four published figures (4.24, 2.59, 1.34, 0.47 million).
        """
        channels = sum(layer.out_channels for layer in self.layers[:-1])
        return self.parameters + self.features + (self.classes + 1) + 3 * channels

    def shares(self, kind: LayerKind) -> tuple[float, float]:
        """Fractions of (mult-adds, parameters) that layers of `kind` hold, as in table 2."""
        layers = [layer for layer in self.layers if layer.kind == kind]
        mult_adds = sum(layer.mult_adds for layer in layers)
        parameters = sum(layer.parameters for layer in layers)
        return mult_adds / self.mult_adds, parameters / self.parameters

    def _width(self, channels: int) -> int:
        return max(int(channels * self.alpha), 8)

    def _layers(self) -> Iterator[Layer]:
        channels, size = self._width(_STEM_CHANNELS), -(-self.resolution // 2)
        yield Layer("conv_0", "convolution", 3, 2, 3, channels, self.resolution, size)
        blocks = _SHALLOW_BLOCKS if self.body == "shallow" else _BLOCKS
        for i, (full_width, stride) in enumerate(blocks, start=1):
            width, out = self._width(full_width), -(-size // stride)
            if self.body == "full":
                yield Layer(f"conv_{i}", "convolution", 3, stride, channels, width, size, out)
            else:
                yield Layer(f"dw_{i}", "depthwise", 3, stride, channels, channels, size, out)
                yield Layer(f"pw_{i}", "pointwise", 1, 1, channels, width, out, out)
            channels, size = width, out
        yield Layer("classifier", "dense", 1, 1, channels, self.classes, 1, 1)
