"""How a JPEG has to be turned, by the EXIF block that cameras write (TIFF 6.0, section 2).

Pillow opens a file and reads all of its directory in Python, which keeps the interpreter from other threads
for a tenth of a millisecond and more. Here only what it would read the same is read; whatever is unusual is
left to it.
"""

import struct

_START = b"Exif\0\0"
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION = 0x0112
_SHORT = 3
# Bytes of a value of each type. Pillow passes over what has another one.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_MOST_ENTRIES = 256  # cameras write a dozen


def orientation(data: bytes, at: int) -> int | None:
    """By the block that begins at `at` in a JPEG's bytes, behind its length (see `headers.Frame.exif`): 1 to
    8 where the value means anything, and 1 without one. None where there are several blocks, or it is
    unusual or damaged."""
    if at <= 0:
        return None if at else 1
    block = data[at : at - 2 + int.from_bytes(data[at - 2 : at], "big")]
    order = _ORDERS.get(block[6:10])
    if not block.startswith(_START) or order is None or len(block) < 16:
        return None
    tiff = memoryview(block)[6:]
    (first,) = struct.unpack_from(order + "L", tiff, 4)
    if not 8 <= first <= len(tiff) - 2:
        return None
    (count,) = struct.unpack_from(order + "H", tiff, first)
    entries = tiff[first + 2 : first + 2 + 12 * count]
    if count > _MOST_ENTRIES or len(entries) < 12 * count:
        return None
    found, beside = [], 0
    for tag, kind, values, value in struct.iter_unpack(order + "HHLL", entries):
        size = _SIZES.get(kind, 0) * values
        if tag == _ORIENTATION:
            if kind != _SHORT or values != 1:
                return None
            found.append(value & 0xFFFF if order == "<" else value >> 16)
        elif size > 4:  # the value is where they lie
            beside += size
            if value + size > len(tiff) or beside > len(tiff):
                return None
    return found[0] if found else 1
