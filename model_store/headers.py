"""What the first bytes of a picture tell: its type and size, before anything is made for its pixels.

The bytes come from anybody and are read on the event loop, so each reader takes a bounded number of steps.
Pillow's plugins walk in Python over all parts that a file has: 19 MB of empty comments are ten seconds. Here
a file of too many parts is refused, and whatever remains keeps Pillow for some milliseconds.
"""

import zlib
from typing import NamedTuple

_MAGICS = ((b"\xff\xd8", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"))
_MOST_PARTS = 1000  # before the pixels; the longest colour profile and a depth map have some 400
_MOST_SUB_BLOCKS = 4096  # of GIF, up to 255 bytes each
_MOST_CHUNKS = 1 << 14  # of PNG, behind the pixels too
_MOST_FILLING = 64  # bytes between two segments of a JPEG
# All scans of a JPEG have so many pixels at most: twenty scans of 50 megapixels, where usual files have ten.
# A scan of 75 bytes takes as long as a full one.
_MOST_SCANNED = 1 << 30
# ITU-T T.81, table B.1: the starts of a frame. C4, C8 and CC are none.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN = 0xDA
_APP1, _EXIF = 0xE1, b"Exif\0"
# What a length follows, as libjpeg has it: tables, intervals, APP0 to APP15, comments. No other is known.
_SEGMENTS = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE}) | frozenset(range(0xE0, 0xF0))
_ALONE = frozenset({0x00, 0x01}) | frozenset(range(0xD0, 0xD8))  # escapes and restarts, which end at once
_WEBP_LARGEST = 0x3FFF
_BMP_HEADERS = frozenset({40, 52, 56, 64, 108, 124})  # their lengths, beside OS/2's of 12
_BMP_RUN_LENGTHS = (1, 2)


class HeaderError(Exception):
    """The text is for the caller."""


class Frame(NamedTuple):
    """One of "JPEG", "PNG", "WEBP", "GIF", "BMP"; width and height in pixels as stored."""

    format: str
    width: int
    height: int
    progressive: bool = False  # a JPEG in several scans, all of which are kept until the last
    components: int = 0  # of a JPEG: 1 is grey, 3 are colours
    exif: int = 0  # of a JPEG: where the block begins that may tell how to turn it; -1: several


def magic(data: bytes) -> str | None:
    """The type that the first bytes claim."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for start, name in _MAGICS if data.startswith(start)), None)


def frame(data: bytes) -> Frame | None:
    """None for bytes of another type. Raises HeaderError for what is cut, damaged or of too many parts."""
    format = magic(data)
    if format is None:
        return None
    try:
        found = _READERS[format](data)
    except IndexError:  # the bytes end before
        found = None
    if found is None:
        raise HeaderError(f"the bytes start like {format}, but are truncated, damaged or in too many parts")
    return found


def check_parts(data: bytes, format: str, pixels: int, *, progressive: bool) -> None:
    """For a worker, before the pixels. Raises HeaderError where decoding would take seconds for few bytes."""
    if format == "PNG" and not _ends_within(data, _MOST_CHUNKS):
        raise HeaderError(f"the picture has more than {_MOST_CHUNKS} chunks")
    if progressive:
        scans = data.count(b"\xff\xda")  # and those of previews, which are few
        if scans * pixels > _MOST_SCANNED:
            raise HeaderError(f"the picture has {scans} scans, too many for its size; save it anew")


def _jpeg(data: bytes) -> Frame | None:
    """Reads on to the first scan, since a second frame before it would be another size.

    Segments are told apart as libjpeg does it: what it does not know, or would read otherwise, is refused.
    """
    found, exif, position = None, 0, 2
    for _ in range(_MOST_PARTS):
        start = position
        while data[position] != 0xFF or data[position + 1] == 0xFF:
            position += 1
            if position - start > _MOST_FILLING:
                return None
        marker = data[position + 1]
        position += 2
        if marker in _ALONE:
            continue
        if marker in _FRAMES:
            # The length (2 bytes), the precision (1), the height (2), the width (2), the components (1).
            height, width = _big(data, position + 3, 2), _big(data, position + 5, 2)
            if found is not None or not width or not height:
                return None
            found = Frame("JPEG", width, height, marker in _PROGRESSIVE_FRAMES, data[position + 7])
        elif marker == _SCAN:
            if found is None:
                return None
            several = data[position + 2] < found.components
            return found._replace(progressive=found.progressive or several, exif=exif)
        elif marker == _APP1:
            if data.startswith(_EXIF, position + 2):
                exif = -1 if exif else position + 2
        elif marker not in _SEGMENTS:
            return None
        position += max(2, data[position] << 8 | data[position + 1])
    return None


def _png(data: bytes) -> Frame | None:
    """By its first chunk: the length and the name of it are 8 bytes, and behind 13 more is their checksum."""
    if data[12:16] != b"IHDR" or _big(data, 29, 4) != zlib.crc32(data[12:29]):
        return None
    return Frame("PNG", _big(data, 16, 4), _big(data, 20, 4))


def _webp(data: bytes) -> Frame | None:
    """By the container's first chunk (RFC 9649). Pillow would make a whole decoder with its canvas."""
    if len(data) < 30 or _little(data, 4, 4) + 8 > len(data):
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":  # the canvas, less one
        return Frame("WEBP", _little(data, 24, 3) + 1, _little(data, 27, 3) + 1)
    if chunk == b"VP8L" and data[20] == 0x2F:  # 14 bits each, less one
        bits = _little(data, 21, 4)
        return Frame("WEBP", (bits & _WEBP_LARGEST) + 1, (bits >> 14 & _WEBP_LARGEST) + 1)
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":  # 14 bits each, and 2 that tell how to enlarge
        width, height = (_little(data, at, 2) & _WEBP_LARGEST for at in (26, 28))
        return Frame("WEBP", width, height)
    return None


def _gif(data: bytes) -> Frame | None:
    """The screen, or where it is larger, what the first picture reaches to."""
    width, height, flags = _little(data, 6, 2), _little(data, 8, 2), data[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    within = False  # an extension
    for _ in range(_MOST_SUB_BLOCKS):
        byte = data[position]
        if within:
            within = byte > 0
            position += byte + 1
        elif byte == 0x21:
            within = True
            position += 2
        elif byte == 0x2C:
            left, top, right, bottom = (_little(data, position + at, 2) for at in (1, 3, 5, 7))
            whole = len(data) > position + 9
            return Frame("GIF", max(width, left + right), max(height, top + bottom)) if whole else None
        elif byte == 0x3B:
            return None
        else:
            position += 1
    return None


def _bmp(data: bytes) -> Frame | None:
    header = _little(data, 14, 4)
    if header == 12 and len(data) >= 26:
        return Frame("BMP", _little(data, 18, 2), _little(data, 20, 2))
    if header not in _BMP_HEADERS or len(data) < 14 + header:
        return None
    if _little(data, 30, 4) in _BMP_RUN_LENGTHS:  # which Pillow decodes in Python: kilobytes take ten seconds
        raise HeaderError("run-length coded BMP is not read; save it without compression, or as PNG")
    height = _little(data, 22, 4)
    return Frame("BMP", _little(data, 18, 4), (1 << 32) - height if height >> 31 else height)


_READERS = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "BMP": _bmp}


def _ends_within(data: bytes, most: int) -> bool:
    """Whether a PNG has no more than `most` chunks."""
    position = 8
    for _ in range(most):
        if position >= len(data) or data[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + _big(data, position, 4)
    return False


def _big(data: bytes, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "big")


def _little(data: bytes, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "little")
