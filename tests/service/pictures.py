"""Small pictures of every type, made on the spot."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(format: str, width: int = 64, height: int = 48, mode: str = "RGB") -> bytes:
    """A picture with smooth colours, so that truncation and corruption change something."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format)
    return buffer.getvalue()


def truncated(format: str) -> bytes:
    data = encode(format)
    return data[: len(data) // 2]


def damaged(format: str) -> bytes:
    """The right first bytes, then nonsense."""
    data = encode(format)
    return data[:16] + bytes(255 - b for b in data[16:])


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds almost nothing."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", body)
        + _chunk(b"IDAT", zlib.compress(b""))
        + _chunk(b"IEND", b"")
    )


def png_bomb(side: int) -> bytes:
    """A complete grey PNG of side x side pixels in a few kilobytes."""
    body = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = b"\0" * (1 + (side + 7) // 8)
    packed = zlib.compress(row * side, 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", body) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def bmp_header(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def gif_of(width: int, height: int) -> bytes:
    """A real GIF whose screen announces another size."""
    data = bytearray(encode("GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def jpeg_of(width: int, height: int) -> bytes:
    """A real JPEG whose frame header announces another size."""
    data = bytearray(encode("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
