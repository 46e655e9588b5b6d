"""Own reading of EXIF against Pillow's: where it tells anything, Pillow tells the same."""

import io
import struct
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from model_store import exif, headers, imaging
from model_store.imaging import decode
from model_store.manifest import Preprocessing
from tests.model_store.picture_files import colours, save

_ORIENTATION, _SHORT, _ASCII = 0x0112, 3, 2
Entry = tuple[int, int, int, int]  # tag, type, values, value or where it lies


def block(entries: list[Entry], order: str = "<", first: int = 8, behind: bytes = bytes(64)) -> bytes:
    start = {"<": b"II*\0", ">": b"MM\0*"}[order]
    listed = b"".join(struct.pack(order + "HHLL", *entry) for entry in entries)
    head = start + struct.pack(order + "L", first) + bytes(max(0, first - 8))
    return b"Exif\0\0" + head + struct.pack(order + "H", len(entries)) + listed + behind


def file_with(*blocks: bytes) -> bytes:
    plain = save(colours(), "JPEG")
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(each) + 2) + each for each in blocks)
    return plain[:2] + segments + plain[2:]


def ours(data: bytes) -> int | None:
    frame = headers.frame(data)
    assert frame is not None
    return exif.orientation(data, frame.exif)


def pillows(data: bytes) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return imaging._orientation(Image.open(io.BytesIO(data)))


def short(value: int, order: str) -> int:
    return value if order == "<" else value << 16


MAKER: Entry = (0x010F, _ASCII, 8, 60)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [1, 3, 6, 8, 0, 9])
def test_what_cameras_write_is_read(order: str, value: int) -> None:
    data = file_with(block([MAKER, (_ORIENTATION, _SHORT, 1, short(value, order))], order))
    assert ours(data) == pillows(data) == value


def test_what_pillow_writes_is_read() -> None:
    written = Image.Exif()
    written[_ORIENTATION], written[0x010F] = 5, "a camera"
    data = save(colours(), "JPEG", exif=written)
    assert ours(data) == pillows(data) == 5


def test_without_a_block_or_a_value_it_is_not_turned() -> None:
    assert ours(save(colours(), "JPEG")) == 1
    without = file_with(block([MAKER]))
    assert ours(without) == pillows(without) == 1


UPRIGHT = (_ORIENTATION, _SHORT, 1, 6)


@pytest.mark.parametrize(
    "blocks",
    [
        [block([UPRIGHT]), block([UPRIGHT])],
        [block([UPRIGHT]).replace(b"II*\0", b"II+\0")],
        [block([UPRIGHT]).replace(b"Exif\0\0", b"Exif\0\1")],
        [block([(_ORIENTATION, 4, 1, 6)])],
        [block([(_ORIENTATION, _SHORT, 2, 6)])],
        [block([(0x010F, _ASCII, 1 << 20, 60), UPRIGHT])],
        [block([UPRIGHT], behind=b"")[:-1]],
        [block([UPRIGHT], first=8)[:14]],
        [b"Exif\0\0II*\0" + struct.pack("<L", 1 << 31) + bytes(40)],
    ],
    ids=["several", "big-tiff", "other-start", "long", "two-values", "beyond", "cut", "short", "far"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")  # of Pillow, of what is damaged
def test_the_unusual_is_pillows(blocks: list[bytes]) -> None:
    data = file_with(*blocks)
    assert ours(data) is None
    assert decode(data, 32, Preprocessing()).shape == (32, 32, 3)


entries = st.lists(
    st.tuples(
        st.sampled_from([0x0100, 0x010F, 0x0110, _ORIENTATION, _ORIENTATION, 0x0128, 0x8769]),
        st.integers(0, 17),
        st.sampled_from([0, 1, 1, 1, 2, 5, 40, 200, 1 << 31]),
        st.integers(0, 130) | st.sampled_from([6 << 16, (1 << 32) - 1]),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=400)
@given(entries, st.sampled_from("<>"), st.integers(8, 20), st.integers(0, 80), st.data())
@example([(0x0110, 2, 40, 20), UPRIGHT], "<", 8, 40, None)
def test_it_is_never_another_than_pillows(
    listed: list[Entry], order: str, first: int, behind: int, draw: st.DataObject | None
) -> None:
    made = bytearray(block(listed, order, first, bytes(range(behind))))
    if draw is not None:
        for at in draw.draw(st.lists(st.integers(6, len(made) - 1), max_size=3)):
            made[at] = draw.draw(st.integers(0, 255))
    data = file_with(bytes(made))
    found = ours(data)
    assert found is None or found == pillows(data)
