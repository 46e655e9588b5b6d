"""Pictures to calibrate with, drawn by the product itself: no one's photos are needed or kept.

Shapes of all sizes that hide one another, some of them striped or shaded, under noise whose spectrum falls
with frequency: "dead leaves", which have the statistics of natural pictures (arXiv 2106.05963).
"""

import numpy as np
import numpy.typing as npt

from model_store.quantized import Bytes

_SHAPES = 400
_SMALLEST = 3.0  # half the side of a shape, in pixels
_COLOURS = 8

_Floats = npt.NDArray[np.float64]


def drawn_pictures(count: int, resolution: int) -> Bytes:
    """uint8 [count, resolution, resolution, 3]; the same ones every time."""
    rng = np.random.default_rng(0)
    return np.stack([_picture(rng, resolution) for _ in range(count)])


def _picture(rng: np.random.Generator, side: int) -> Bytes:
    picture = np.zeros((side, side, 3))
    empty = np.ones((side, side), bool)
    palette = rng.uniform(0, 255, (_COLOURS, 3))
    for _ in range(_SHAPES):  # the nearest first: each covers only what is still empty
        # Log-uniform: as many small shapes as large ones, at any distance.
        radius = np.exp(rng.uniform(np.log(_SMALLEST), np.log(side / 2)))
        centre = rng.uniform(-0.1 * side, 1.1 * side, 2)
        box = tuple(_reach(middle, 1.5 * radius, side) for middle in centre)
        if not empty[box].any():
            continue
        down, across = (np.arange(s.start, s.stop) - middle for s, middle in zip(box, centre, strict=True))
        turn = rng.uniform(0, np.pi)
        rows, columns = down[:, np.newaxis] / radius, across / radius
        x = columns * np.cos(turn) + rows * np.sin(turn)
        y = (rows * np.cos(turn) - columns * np.sin(turn)) / rng.uniform(0.3, 1)
        inside = empty[box] & _shape(rng, x, y)
        colour = palette[rng.integers(_COLOURS)] + rng.normal(0, 30, 3)
        picture[box][inside] = colour + _texture(rng, x[inside], radius)[:, np.newaxis]
        empty[box] &= ~inside
    noise = _noise(rng, side) * rng.uniform(3, 25)
    return np.asarray((picture + noise).clip(0, 255), np.uint8)


def _reach(middle: float, distance: float, side: int) -> slice:
    """Pixels of one axis that are no further than `distance` from `middle`."""
    start, stop = (int(min(max(end, 0), side)) for end in (middle - distance, middle + distance + 1))
    return slice(start, stop)


def _shape(rng: np.random.Generator, x: _Floats, y: _Floats) -> npt.NDArray[np.bool_]:
    """An ellipse, a rectangle or a rhombus."""
    distances = (np.hypot(x, y), np.maximum(np.abs(x), np.abs(y)), np.abs(x) + np.abs(y))
    return np.asarray(distances[rng.integers(3)] < 1)


def _texture(rng: np.random.Generator, x: _Floats, radius: float) -> _Floats:
    """Nothing, stripes, or a shade from one side to the other."""
    kind = rng.integers(3)
    if kind == 0:
        return np.zeros_like(x)
    if kind == 1:
        return np.asarray(np.sin(x * radius * rng.uniform(0.05, 1.5)) * rng.uniform(10, 70))
    return x * rng.uniform(-80, 80)


def _noise(rng: np.random.Generator, side: int) -> _Floats:
    """Of mean 0 and deviation 1, its amplitude as 1 / frequency; the channels go mostly together."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, np.newaxis], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    spectrum = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    planes = np.fft.irfft2(spectrum / frequency, s=(side, side))
    mixed = np.tensordot(planes, 1 + rng.normal(0, 0.5, (3, 3)), axes=(0, 0))
    return np.asarray(mixed / mixed.std())
