"""Bytes that are no picture, or half of one: always an ImageError that says which."""

import contextlib
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from model_store.imaging import (
    MIN_SIDE,
    ImageError,
    TooManyPixels,
    UnreadableImage,
    UnsupportedImage,
    decode,
    probe,
)
from model_store.manifest import Preprocessing
from tests.model_store.picture_files import FILES, HEIGHT, WIDTH, colours, save

PREPROCESSING = Preprocessing()
ONE_EACH = ("jpeg", "jpeg-progressive", "png", "webp", "webp-lossless", "gif", "bmp")


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file(name: str, share: float) -> None:
    data = FILES[name][0]()
    with pytest.raises(UnreadableImage):
        decode(data[: int(len(data) * share)], 64, PREPROCESSING)


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("length", [2, 4, 12, 16, 24])
def test_a_file_cut_in_its_header(name: str, length: int) -> None:
    data = FILES[name][0]()[:length]
    with pytest.raises(ImageError):
        probe(data, 10**9)
    with pytest.raises(ImageError):
        decode(data, 64, PREPROCESSING)


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_file_that_starts_right_names_its_type(name: str) -> None:
    data = FILES[name][0]()
    with pytest.raises(UnreadableImage, match=name.partition("-")[0].upper()):
        probe(data[:14], 10**9)


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n",
        b"\0" * 1000,
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"II*\0\x08\0\0\0",  # TIFF
    ],
)
def test_other_files_are_unsupported_and_the_types_that_are_read_are_named(data: bytes) -> None:
    for read in (lambda: probe(data, 10**9), lambda: decode(data, 64, PREPROCESSING)):
        with pytest.raises(UnsupportedImage, match="JPEG, PNG, WEBP, GIF, BMP"):
            read()


def test_types_that_pillow_reads_and_we_do_not() -> None:
    for format in ("TIFF", "PPM", "ICO"):
        with pytest.raises(UnsupportedImage):
            probe(save(colours(), format), 10**9)


def test_no_bytes_at_all() -> None:
    with pytest.raises(UnreadableImage, match="empty"):
        probe(b"", 10**9)
    with pytest.raises(UnreadableImage, match="empty"):
        decode(b"", 64, PREPROCESSING)


@pytest.mark.parametrize("name", ONE_EACH)
def test_the_limit_of_pixels_is_inclusive_and_told(name: str) -> None:
    data = FILES[name][0]()
    assert probe(data, WIDTH * HEIGHT).pixels == WIDTH * HEIGHT
    with pytest.raises(TooManyPixels) as caught:
        probe(data, WIDTH * HEIGHT - 1)
    assert (caught.value.width, caught.value.height) == (WIDTH, HEIGHT)
    assert caught.value.limit == WIDTH * HEIGHT - 1
    assert str(WIDTH) in str(caught.value)


def test_pixels_are_counted_before_any_is_decoded() -> None:
    """A header of 60000 x 60000 in a file of 62 bytes."""
    data = bytearray(save(Image.new("RGB", (2, 2)), "BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    with pytest.raises(TooManyPixels, match="60000 x 60000"):
        probe(bytes(data), 10**8)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_a_line_of_single_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UnreadableImage, match="2 x 2"):
        probe(save(Image.new("RGB", size), "PNG"), 10**9)
    assert probe(save(Image.new("RGB", (MIN_SIDE, MIN_SIDE)), "PNG"), 10**9).width == MIN_SIDE


def test_errors_that_pillow_raises_by_another_name() -> None:
    """Its plugins raise more than OSError: ValueError for a palette of 257 colours."""
    palette = bytearray(FILES["bmp-palette"][0]())
    palette[46:50] = struct.pack("<I", 257)
    with pytest.raises(UnreadableImage, match="damaged"):
        decode(bytes(palette), 64, PREPROCESSING)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_corruption_anywhere_is_an_image_error_or_another_picture(name: str, data: st.DataObject) -> None:
    damaged = bytearray(FILES[name][0]())
    where = st.integers(0, 60) | st.integers(0, len(damaged) - 1)
    for position in data.draw(st.lists(where, min_size=1, max_size=10)):
        damaged[position] = data.draw(st.integers(0, 255))
    kept = bytes(damaged[: data.draw(st.integers(1, len(damaged)) | st.just(len(damaged)))])
    with contextlib.suppress(ImageError):
        probe(kept, 10**6)
        assert decode(kept, 64, PREPROCESSING).shape == (64, 64, 3)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x20\0\0\0WEBP"]),
    st.binary(max_size=200),
)
def test_noise_after_any_magic_is_an_image_error(magic: bytes, noise: bytes) -> None:
    with contextlib.suppress(ImageError):
        probe(magic + noise, 10**6)
        decode(magic + noise, 64, PREPROCESSING)
