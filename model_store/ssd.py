"""The detector of the paper's section 4.6: SSD with a MobileNet v1 body, and what it costs.

The body without its classifier, four more pairs of layers that shrink the map further, and a box predictor
on six maps: the body's at strides 16 and 32, and that of each pair. Pure arithmetic, as `architecture`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from model_store.architecture import Layer, MobileNetSpec

ALPHA = 1.0  # the one width there is
TRAINED_RESOLUTION = 512
DETECTOR_RESOLUTIONS: tuple[int, ...] = (512, 320, 224, 160)
# Share of the faces in 500 compositions that the fp32 detector finds (docs/faces.md).
RECALL: dict[int, float] = {512: 0.879, 320: 0.870, 224: 0.735, 160: 0.582}

# (channels of the 1x1, channels of the 3x3 at stride 2) of the pairs after the body.
_EXTRA_PAIRS: tuple[tuple[int, int], ...] = ((256, 512), (128, 256), (128, 256), (64, 128))
_PREDICTED_FROM = ("pw_11", "pw_13", "extra_1", "extra_3", "extra_5", "extra_7")

# TensorFlow's SSD anchors: scales from 0.2 to 0.95 of the picture, evenly over the maps. The first map has
# small squares in place of the two longest shapes.
_SMALLEST_SCALE, _LARGEST_SCALE = 0.2, 0.95
_LONG_SHAPES: tuple[float, ...] = (2.0, 0.5, 3.0, 0.3333)  # width over height
_FIRST_MAP_SHAPES: tuple[tuple[float, float], ...] = ((0.1, 1.0), (0.2, 2.0), (0.2, 0.5))

PREDICTED_VALUES = 5  # by anchor: four offsets and the face's logit


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """A map that boxes are predicted from.

    Cell i looks for faces around pixel `stride` (i + 1/2) + `shift`, of the shapes (height, width) in
    `anchors`, all in pixels of the input.
    """

    layer: str
    size: int
    stride: int
    shift: int
    anchors: tuple[tuple[float, float], ...]
    predictor: Layer


@dataclass(frozen=True)
class SsdSpec:
    """The face detector for square inputs of `resolution` pixels. Raises ValueError for sizes below 32."""

    resolution: int

    @property
    def alpha(self) -> float:
        return ALPHA

    @property
    def rho(self) -> float:
        return self.resolution / 224

    @cached_property
    def convolutions(self) -> tuple[Layer, ...]:
        """Body and pairs: one chain, each with ReLU6 behind it."""
        *body, _ = MobileNetSpec(ALPHA, self.resolution).layers
        return (*body, *_extra_layers(body[-1]))

    @cached_property
    def maps(self) -> tuple[FeatureMap, ...]:
        return tuple(self._maps())

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All that has weights."""
        return (*self.convolutions, *(m.predictor for m in self.maps))

    @property
    def anchors(self) -> int:
        return sum(m.size**2 * len(m.anchors) for m in self.maps)

    @property
    def mult_adds(self) -> int:
        return sum(layer.mult_adds for layer in self.layers)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    def _maps(self) -> Iterator[FeatureMap]:
        shapes = iter(_anchor_shapes())
        strides = list(accumulate(self.convolutions, lambda stride, x: stride * x.stride, initial=1))
        shift = 0
        for layer, before, after in zip(self.convolutions, strides, strides[1:], strict=False):
            if layer.stride == 2:
                # `SAME` pads an even map, as all are at 512, behind only. It pads an odd one before too:
                # there the kernel sees the map one cell further to the left and the top.
                shift -= layer.padding[0] * before
            if layer.name in _PREDICTED_FROM:
                anchors = next(shapes)
                size, channels = layer.out_size, layer.out_channels
                outputs = PREDICTED_VALUES * len(anchors)
                index = _PREDICTED_FROM.index(layer.name)
                predictor = Layer(f"predictor_{index}", "pointwise", 1, 1, channels, outputs, size, size)
                yield FeatureMap(layer.name, size, after, shift, anchors, predictor)


def _extra_layers(last: Layer) -> Iterator[Layer]:
    channels, size = last.out_channels, last.out_size
    for pair, (narrow, wide) in enumerate(_EXTRA_PAIRS):
        out = -(-size // 2)
        yield Layer(f"extra_{2 * pair}", "pointwise", 1, 1, channels, narrow, size, size)
        yield Layer(f"extra_{2 * pair + 1}", "convolution", 3, 2, narrow, wide, size, out)
        channels, size = wide, out


def _anchor_shapes() -> Iterator[tuple[tuple[float, float], ...]]:
    """(height, width) in pixels, by map. In pixels of the trained size at every input size: the weights know
    what a face of so many pixels looks like, not what share of the picture it has."""
    count = len(_PREDICTED_FROM)
    step = (_LARGEST_SCALE - _SMALLEST_SCALE) / (count - 1)
    scales = [_SMALLEST_SCALE + step * i for i in range(count)] + [1.0]
    for index, (scale, larger) in enumerate(pairwise(scales)):
        squares = ((scale, 1.0), ((scale * larger) ** 0.5, 1.0))
        shapes = (*squares, *((scale, ratio) for ratio in _LONG_SHAPES))
        yield tuple(
            (TRAINED_RESOLUTION * s / ratio**0.5, TRAINED_RESOLUTION * s * ratio**0.5)
            for s, ratio in (shapes if index else _FIRST_MAP_SHAPES)
        )
