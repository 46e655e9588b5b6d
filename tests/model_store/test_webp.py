"""The size of a WebP picture is read without making a decoder for it."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model_store import webp
from model_store.imaging import ImageError, TooManyPixels, UnreadableImage, decode, probe
from model_store.manifest import Preprocessing
from tests.model_store.picture_files import FILES, HEIGHT, WIDTH, save


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("webp")])
def test_every_kind(name: str) -> None:
    assert webp.size(FILES[name][0]()) == (WIDTH, HEIGHT)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.booleans(), st.booleans())
def test_any_size(width: int, height: int, lossless: bool, metadata: bool) -> None:
    options = {"icc_profile": b"a profile"} if metadata else {}
    data = save(Image.new("RGB", (width, height)), "WEBP", lossless=lossless, **options)
    assert webp.size(data) == (width, height)


def test_the_largest_size() -> None:
    assert webp.size(save(Image.new("RGB", (16383, 2)), "WEBP")) == (16383, 2)


def canvas(width: int, height: int) -> bytes:
    """A header that announces a canvas, and nothing on it."""
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    chunk += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def test_pixels_are_counted_before_room_is_made_for_them() -> None:
    with pytest.raises(TooManyPixels, match="16000 x 16000"):
        probe(canvas(16_000, 16_000), 10**7)
    with pytest.raises(UnreadableImage):
        decode(canvas(16, 16), 64, Preprocessing())


@pytest.mark.parametrize("name", ["webp", "webp-lossless", "webp-alpha"])
def test_a_file_that_is_cut_is_told_at_its_header(name: str) -> None:
    data = FILES[name][0]()
    for length in (13, 20, 29, 30, len(data) - 1):
        assert webp.size(data[:length]) is None
        with pytest.raises(ImageError):
            probe(data[:length], 10**8)


def test_chunks_of_another_name_or_signature() -> None:
    lossy, lossless = FILES["webp"][0](), FILES["webp-lossless"][0]()
    assert webp.size(lossy.replace(b"VP8 ", b"VP9 ")) is None
    assert webp.size(lossy[:23] + b"\0" + lossy[24:]) is None
    assert webp.size(lossless[:20] + b"\0" + lossless[21:]) is None
