"""A photo that is decoded once: what a detector looks at, and the faces that are cut out of it."""

import math

import numpy as np

from model_store.imaging import Box, UInt8Array, resized, upright_picture
from model_store.sampling import sampled

# How many times the detector's pixels are decoded: the smallest faces that it was trained to find have 51
# pixels of its input, and their crops then have no fewer than those of CelebA.
_DETAIL = 1.5


def least_side(resolution: int) -> int:
    """What the longer side of a photo is decoded to, at least, for a detector of `resolution` pixels."""
    return round(_DETAIL * resolution)


class Photo:
    """Upright pixels of an encoded picture, as many as faces need that a detector of `resolution` finds.

    Raises UnsupportedImage or UnreadableImage.
    """

    def __init__(self, data: bytes, resolution: int) -> None:
        self._resolution = resolution
        self._pixels, self.size = upright_picture(data, least_side(resolution))
        self._reduction = round(max(self.size) / max(self._pixels.shape))

    def whole(self) -> UInt8Array:
        """[resolution, resolution, 3] for the detector: the picture at the top left of black."""
        step = max(self.size) / self._resolution
        return sampled(self._pixels, self._resolution, step, self._reduction)

    def cut(self, box: Box, size: int) -> UInt8Array:
        """[size, size, 3] of a box in the picture's pixels; beyond the picture, its edges go on."""
        left, top, right, bottom = (side / self._reduction for side in box)
        first, last = (math.floor(left), math.floor(top)), (math.ceil(right), math.ceil(bottom))
        height, width, _ = self._pixels.shape
        if first[0] >= 0 and first[1] >= 0 and last[0] <= width and last[1] <= height:
            part = self._pixels[first[1] : last[1], first[0] : last[0]]
        else:
            rows = np.arange(first[1], last[1]).clip(0, height - 1)
            columns = np.arange(first[0], last[0]).clip(0, width - 1)
            part = self._pixels.take(rows, 0).take(columns, 1)
        inner = (left - first[0], top - first[1], right - first[0], bottom - first[1])
        return resized(part, size, inner)
