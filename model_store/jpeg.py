"""JPEG through libjpeg-turbo, where `simplejpeg` has a wheel for the platform. Its only importer.

A file that it refuses or cannot do (CMYK, arithmetic coding, damage of any kind) is None here: Pillow then
decodes it or says that it is broken, so that answers and errors are the same with and without the library.
"""

import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

VERSION: str | None = None if simplejpeg is None else f"simplejpeg-{simplejpeg.__version__}"

_KEPT_BYTES = 4 << 20  # a larger buffer is not kept: 4 MiB hold what any usual shape is reduced to
# ITU-T T.81, table B.1: the starts of a frame. C4, C8 and CC are none.
_FRAMES = {bytes([marker]) for marker in range(0xC0, 0xD0)} - {b"\xc4", b"\xc8", b"\xcc"}
_PROGRESSIVE_FRAMES = {b"\xc2", b"\xc6", b"\xca", b"\xce"}
_MOST_SEGMENTS = 200  # before the frame; the header is read on the event loop


class _Buffer(threading.local):
    """Where this thread decodes to: the same pages each time, so that the kernel has none to hand out."""

    def __init__(self) -> None:
        self._pixels = np.empty(0, np.uint8)

    def of(self, size_bytes: int) -> npt.NDArray[np.uint8] | None:
        if size_bytes > _KEPT_BYTES:
            return None
        if size_bytes > self._pixels.size:
            self._pixels = np.empty(size_bytes, np.uint8)
        return self._pixels


_buffer = _Buffer()


class Frame(NamedTuple):
    """The width and height as stored, and whether several scans each cover all of the picture."""

    width: int
    height: int
    progressive: bool


def frame(data: bytes) -> Frame | None:
    """What the frame's header says; None where it does not come, or leaves the height to be told later.

    It is looked for here and not by libjpeg-turbo: on the event loop each call that gives the interpreter
    away waits to have it back.
    """
    position = 2
    for _ in range(_MOST_SEGMENTS):
        if data[position : position + 1] != b"\xff":
            return None
        marker = data[position + 1 : position + 2]
        if marker in _FRAMES:
            # After the marker: the length (2 bytes), the precision (1), the height (2), the width (2).
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            whole = len(data) >= position + 9 and width > 0 and height > 0
            return Frame(width, height, marker in _PROGRESSIVE_FRAMES) if whole else None
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def decode(data: bytes, stored: tuple[int, int], scale: int, *, grey: bool) -> npt.NDArray[np.uint8] | None:
    """RGB [height, width, 3] or grey [height, width, 1] of a file of `stored` (width, height), reduced by
    `scale` (1, 2, 4, 8) and rounded up. It is overwritten when the thread decodes its next file.
    """
    if simplejpeg is None:
        return None
    width, height = (-(-side // scale) for side in stored)
    shape = (height, width, 1 if grey else 3)
    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data,
            "GRAY" if grey else "RGB",
            min_height=height,
            min_width=width,
            buffer=_buffer.of(height * width * shape[2]),
        )
    except ValueError:
        return None
    return pixels if pixels.shape == shape else None
