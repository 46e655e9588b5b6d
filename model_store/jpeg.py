"""JPEG through libjpeg-turbo, where `simplejpeg` has a wheel for the platform. Its only importer.

A file that it refuses or cannot do (CMYK, arithmetic coding, damage of any kind) is None here: Pillow then
decodes it or says that it is broken, so that answers and errors are the same with and without the library.
"""

import threading

import numpy as np
import numpy.typing as npt

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

VERSION: str | None = None if simplejpeg is None else f"simplejpeg-{simplejpeg.__version__}"

_KEPT_BYTES = 4 << 20  # a larger buffer is not kept: 4 MiB hold what any usual shape is reduced to


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


def decode(data: bytes, stored: tuple[int, int], scale: int, *, grey: bool) -> npt.NDArray[np.uint8] | None:
    """RGB [height, width, 3] or grey [height, width, 1] of a file of `stored` (width, height), reduced by
    `scale` (1, 2, 4, 8) and rounded up. It is overwritten when the thread decodes its next file.
    """
    if simplejpeg is None:
        return None
    width, height = (-(-side // scale) for side in stored)
    shape = (height, width, 1 if grey else 3)
    buffer = _buffer.of(height * width * shape[2])
    try:
        # Without a buffer room is made for what libjpeg reads in the file, which is to be what was allowed.
        if buffer is None and simplejpeg.decode_jpeg_header(data)[1::-1] != tuple(stored):
            return None
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data,
            "GRAY" if grey else "RGB",
            min_height=height,
            min_width=width,
            buffer=buffer,
        )
    except ValueError:
        return None
    return pixels if pixels.shape == shape else None
