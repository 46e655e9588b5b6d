"""The size of a WebP picture, from its header. Pillow's way to it makes a whole decoder with its canvas."""

_LARGEST = 0x3FFF


def size(data: bytes) -> tuple[int, int] | None:
    """(width, height) by the container's first chunk (RFC 9649); None where it is cut, or another."""
    if len(data) < 30 or int.from_bytes(data[4:8], "little") + 8 > len(data):
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":  # the canvas, less one
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and data[20] == 0x2F:  # 14 bits each, less one
        bits = int.from_bytes(data[21:25], "little")
        return (bits & _LARGEST) + 1, (bits >> 14 & _LARGEST) + 1
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":  # 14 bits each, and 2 that tell how to enlarge
        width, height = (int.from_bytes(data[i : i + 2], "little") & _LARGEST for i in (26, 28))
        return width, height
    return None
