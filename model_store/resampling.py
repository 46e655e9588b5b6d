"""Pixels resized with SIMD, where the extra `resize` is installed: `cykooz_resizer`. Its only importer.

It has the antialiased filters of Pillow, which serves elsewhere: one value in some hundred differs, by one
level. Pillow, which computes a value at a time, needs four times as long.
"""

import functools
import math
import threading
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import cykooz_resizer
except ImportError:
    cykooz_resizer = None

VERSION: str | None = None if cykooz_resizer is None else f"cykooz_resizer-{version('cykooz_resizer')}"

_REACHES = {"bilinear": 1, "catmull_rom": 2}  # in pixels made, to either side
_KEPT_SIZES = 4  # of which a thread keeps its memory

UInt8Array = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def bilinear(pixels: UInt8Array, size: int, box: Box) -> UInt8Array | None:
    """[size, size, 3] of the part `box` of [height, width, 3], averaged over all that a pixel covers. It
    cannot be written to. None where nothing is installed that can."""
    return _resized(pixels, size, box, "bilinear")


def bicubic(pixels: UInt8Array, size: int, box: Box) -> UInt8Array | None:
    """As `bilinear`, with a filter that is twice as wide and steeper: Catmull's and Rom's."""
    return _resized(pixels, size, box, "catmull_rom")


def _resized(pixels: UInt8Array, size: int, box: Box, filter: str) -> UInt8Array | None:
    if _own is None:
        return None
    left, top, right, bottom = box
    height, width, _ = pixels.shape
    # One side after the other, as Pillow 13 does: in another order one value in six would be rounded apart.
    tall = height > size and height - size > 2 * (width - size)
    # Only the rows that the filter reaches, and one for rounding.
    reach = _REACHES[filter] * max(1.0, (bottom - top) / size) + 1
    first, last = max(0, math.floor(top - reach)), min(height, math.ceil(bottom + reach))
    pixels, height, top, bottom = pixels[first:last], last - first, top - first, bottom - first
    if tall:
        between, boxes = _own.between(width, size), [(0, top, width, bottom), (left, 0, right, size)]
    else:
        between, boxes = _own.between(size, height), [(left, 0, right, height), (0, top, size, bottom)]
    square = _own.square(size, size)
    _own.resizer.resize(_image(width, height, pixels.tobytes()), between, _options(boxes[0], filter))
    _own.resizer.resize(between, square, _options(boxes[1], filter))
    return np.frombuffer(square.get_buffer(), np.uint8).reshape(size, size, 3)


def _image(width: int, height: int, pixels: bytes | None = None) -> Any:
    return cykooz_resizer.ImageData(width, height, cykooz_resizer.PixelType.U8x3, pixels)


@functools.lru_cache(maxsize=256)
def _options(box: Box, filter: str) -> Any:
    left, top, right, bottom = box
    convolution = cykooz_resizer.ResizeAlg.convolution(getattr(cykooz_resizer.FilterType, filter))
    crop = cykooz_resizer.CropBox(left, top, right - left, bottom - top)
    return cykooz_resizer.ResizeOptions(resize_alg=convolution, crop_box=crop, use_alpha=False)


class _Own(threading.local):
    """What each thread works in: the same memory each time for pictures of the same size."""

    def __init__(self) -> None:
        self.resizer = cykooz_resizer.Resizer()
        self.between, self.square = (functools.lru_cache(maxsize=_KEPT_SIZES)(_image) for _ in range(2))


_own = None if cykooz_resizer is None else _Own()
