"""The size of a picture is read in a bounded number of steps, and is the one that it is decoded at."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model_store import headers
from model_store.headers import Frame
from model_store.imaging import (
    FORMATS,
    ImageError,
    TooManyPixels,
    UnreadableImage,
    decode,
    probe,
    upright_pixels,
)
from model_store.manifest import Preprocessing
from tests.model_store.picture_files import FILES, HEIGHT, WIDTH, colours, save

JPEG, PNG, GIF = (save(colours(), format) for format in ("JPEG", "PNG", "GIF"))
PREPROCESSING = Preprocessing()


@pytest.mark.parametrize("name", FILES)
def test_every_kind(name: str) -> None:
    frame = headers.frame(FILES[name][0]())
    assert frame is not None
    assert frame[1:4] == (WIDTH, HEIGHT, name == "jpeg-progressive")
    assert name.startswith(frame.format.lower())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.booleans(), st.booleans())
def test_any_size_of_webp(width: int, height: int, lossless: bool, metadata: bool) -> None:
    options = {"icc_profile": b"a profile"} if metadata else {}
    data = save(Image.new("RGB", (width, height)), "WEBP", lossless=lossless, **options)
    assert headers.frame(data) == Frame("WEBP", width, height, False)


def test_the_largest_webp() -> None:
    data = save(Image.new("RGB", (16383, 2)), "WEBP")
    assert headers.frame(data) == Frame("WEBP", 16383, 2, False)


def test_bmp_upside_down_and_of_os2() -> None:
    data = bytearray(save(colours(), "BMP"))
    data[22:26] = struct.pack("<i", -HEIGHT)
    assert headers.frame(bytes(data)) == Frame("BMP", WIDTH, HEIGHT, False)
    os2 = b"BM" + struct.pack("<IHHIIHHHH", 26 + 3 * 4 * 2, 0, 0, 26, 12, 4, 2, 1, 24) + bytes(3 * 4 * 2)
    assert headers.frame(os2) == Frame("BMP", 4, 2, False)
    assert upright_pixels(os2).shape == (2, 4, 3)


def test_a_first_picture_that_reaches_beyond_the_screen_of_a_gif() -> None:
    data = bytearray(GIF)
    data[6:10] = struct.pack("<HH", 10, 10)
    assert headers.frame(bytes(data)) == Frame("GIF", WIDTH, HEIGHT, False)
    assert upright_pixels(bytes(data)).shape == (HEIGHT, WIDTH, 3)


def test_metadata_before_the_frame_does_not_hide_it() -> None:
    long = {"icc_profile": bytes(200_000), "comment": b"\xff\xc0" * 100}
    for progressive in (False, True):
        data = save(colours(), "JPEG", progressive=progressive, **long)
        assert headers.frame(data) == Frame("JPEG", WIDTH, HEIGHT, progressive, 3)
    assert probe(save(colours(), "GIF", comment=bytes(range(1, 256)) * 300), 10**8).width == WIDTH


@pytest.mark.parametrize(("mode", "components"), [("L", 1), ("RGB", 3), ("CMYK", 4)])
def test_of_a_jpeg_the_colours_and_whether_it_may_be_turned(mode: str, components: int) -> None:
    picture, exif = colours().convert(mode), Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"exif": exif}, {"xmp": b"<x/>"}, {"xmp": b"<x/>", "exif": exif}):
        data = save(picture, "JPEG", **options)
        begins = data.find(b"Exif\0\0") if "exif" in options else 0
        assert headers.frame(data) == Frame("JPEG", WIDTH, HEIGHT, False, components, begins)


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


COSTLY = {
    "empty comments": JPEG[:2] + b"\xff\xfe\0\2" * 5000 + JPEG[2:],
    "empty comments behind the frame": JPEG.replace(b"\xff\xda", b"\xff\xfe\0\2" * 5000 + b"\xff\xda"),
    "filling": JPEG[:2] + b"\xff" * 10_000 + JPEG[2:],
    "bytes between segments": JPEG[:2] + bytes(10_000) + JPEG[2:],
    "empty chunks": PNG[:33] + chunk(b"teSt") * 20_000 + PNG[33:],
    "empty chunks behind the pixels": PNG[:-12] + chunk(b"teSt") * 20_000 + PNG[-12:],
    "zeros before the picture": GIF[: 13 + 768] + bytes(10_000) + GIF[13 + 768 :],
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_would_keep_pillow_for_seconds_is_refused(name: str) -> None:
    with pytest.raises(UnreadableImage):
        decode(COSTLY[name], 64, PREPROCESSING)
    if "chunks" not in name:  # whose number a worker counts
        with pytest.raises(UnreadableImage):
            probe(COSTLY[name], 10**8)


def test_some_filling_and_comments_are_usual() -> None:
    several = JPEG[:2] + (b"\xff" * 20 + b"\xff\xfe\0\2") * 50 + JPEG[2:]
    assert np.array_equal(decode(several, 64, PREPROCESSING), decode(JPEG, 64, PREPROCESSING))


def with_scans(side: int, count: int) -> bytes:
    """Its last scan is repeated."""
    data = save(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_scans_are_counted_before_they_are_decoded() -> None:
    assert decode(with_scans(64, 50), 64, PREPROCESSING).mean() == 90
    with pytest.raises(UnreadableImage, match="scans"):
        decode(with_scans(3000, 200), 64, PREPROCESSING)
    with pytest.raises(UnreadableImage, match="scans"):
        upright_pixels(with_scans(3000, 200))


def test_a_jpeg_with_a_scan_for_each_colour_is_one_of_several_scans() -> None:
    start = JPEG.index(b"\xff\xda")
    alone = JPEG[: start + 4] + b"\1" + JPEG[start + 5 :]
    frame = headers.frame(alone)
    assert frame is not None
    assert frame.progressive


def test_run_length_bmp_is_refused_with_the_reason() -> None:
    for kind in (1, 2):
        data = bytearray(save(colours().quantize(16), "BMP"))
        data[30] = kind
        with pytest.raises(UnreadableImage, match="run-length"):
            probe(bytes(data), 10**8)


def frame_of(width: int, height: int) -> bytes:
    return b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"


# Between the start and the first segment; read as if a length followed, each leads into what comes next.
HIDING = [
    b"\xff",
    b"\xff\xd0",
    b"\xff\x01",
    b"\xff\x00",
    b"\xff\xe0\0\0",
    b"\xff\xe0\0\1",
    b"\xff\x02",
    b"\0",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*HIDING, frame_of(8, 8), b"\xff\xfe\0\4ab", b"\xff\xd8"]), max_size=6))
def test_what_two_readers_understand_differently_is_not_decoded(parts: list[bytes]) -> None:
    """The pixels are those of the announced size, or there are none."""
    hidden = b"".join(parts)
    shown = JPEG[:2] + hidden + b"\xff\xe5" + struct.pack(">H", 2 + 26) + frame_of(9, 9) * 2 + JPEG[2:]
    for data in (JPEG[:2] + hidden + JPEG[2:], shown):
        try:
            header = probe(data, 10**8)
            pixels = upright_pixels(data)
        except ImageError:
            continue
        assert pixels.shape == (header.height, header.width, 3)


def test_a_second_header_does_not_count() -> None:
    announced = JPEG[:2] + frame_of(16, 16) + JPEG[2:]
    with pytest.raises(UnreadableImage):
        probe(announced, 10**8)
    two = PNG[:33] + chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)) + PNG[33:]
    assert probe(two, 10**8).width == WIDTH
    with pytest.raises(UnreadableImage, match="two sizes"):
        decode(two, 64, PREPROCESSING)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_decoded_in_full_has_a_limit_of_its_own(format: str) -> None:
    data = save(colours(), format)
    if format == "JPEG":
        assert probe(data, 10**8, 1000).width == WIDTH
        data = save(colours(), format, progressive=True)
    with pytest.raises(TooManyPixels, match="limit is 1000"):
        probe(data, 10**8, 1000)
    with pytest.raises(TooManyPixels, match="limit is 500"):
        probe(data, 500, 1000)


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
        with pytest.raises(ImageError):
            probe(data[:length], 10**8)


def test_chunks_of_another_name_or_signature() -> None:
    lossy, lossless = FILES["webp"][0](), FILES["webp-lossless"][0]()
    for data in (
        lossy.replace(b"VP8 ", b"VP9 "),
        lossy[:23] + b"\0" + lossy[24:],
        lossless[:20] + b"\0" + lossless[21:],
    ):
        with pytest.raises(headers.HeaderError):
            headers.frame(data)
