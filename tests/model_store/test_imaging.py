"""What a variant sees of a picture, whatever file it comes in."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from model_store import imaging, resampling
from model_store.imaging import FORMATS, ImageHeader, decode, probe, sample_picture, upright_pixels
from model_store.manifest import Preprocessing
from tests.model_store.picture_files import (
    FILES,
    HEIGHT,
    WIDTH,
    colours,
    on_white,
    reference,
    save,
    see_through,
    sixteen_bits,
)

SIZE = 64
WHOLE = Preprocessing(central_fraction=1)
ORIENTATION = 0x0112


def difference(found: npt.NDArray[np.uint8], expected: npt.NDArray[np.float64]) -> float:
    """Mean, in levels."""
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    return float(np.abs(found.astype(np.float64) - expected).mean())


@pytest.mark.parametrize("name", FILES)
def test_every_type_and_mode(name: str) -> None:
    make, picture = FILES[name]
    found = decode(make(), SIZE, Preprocessing())
    expected = reference(on_white(picture()), SIZE, 0.875)
    # Lossy codecs lose a little, and CMYK goes through an inverse that rounds.
    assert difference(found, expected) < (3 if "jpeg" in name or name.startswith("webp") else 1.5)


@pytest.mark.parametrize("name", FILES)
def test_the_size_that_it_has(name: str) -> None:
    make, picture = FILES[name]
    found = upright_pixels(make())
    expected = on_white(picture()).astype(np.float64)
    assert difference(found, expected) < (4 if "jpeg" in name or name.startswith("webp") else 1.5)


@pytest.mark.parametrize("name", FILES)
def test_the_header_tells_type_and_size(name: str) -> None:
    data = FILES[name][0]()
    header = probe(data, WIDTH * HEIGHT)
    format = name.partition("-")[0].upper()
    assert header == ImageHeader(format, WIDTH, HEIGHT, len(data), name == "jpeg-progressive")
    assert header.coding == ("JPEG-progressive" if header.progressive else format)
    assert header.pixels == WIDTH * HEIGHT


@pytest.mark.parametrize("size", [1, 2, 128, 224])
@pytest.mark.parametrize("shape", [(2, 2), (2, 500), (500, 3), (37, 91)])
def test_any_shape_fills_the_square(size: int, shape: tuple[int, int]) -> None:
    data = save(colours(*shape), "PNG")
    assert decode(data, size, Preprocessing()).shape == (size, size, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = save(colours(), format, exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = decode(data, SIZE, Preprocessing())
    assert difference(found, reference(np.asarray(upright), SIZE, 0.875)) < 2
    if orientation > 1:
        lying = reference(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), SIZE, 0.875)
        assert difference(found, lying) > 10


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_is_decoded_tells_its_upright_size(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    has_exif = format in ("JPEG", "PNG", "WEBP")
    data = save(colours(60, 40), format, **({"exif": exif} if has_exif else {}))
    expected = (40, 60) if has_exif and orientation == 6 else (60, 40)
    assert imaging.decode_sized(data, SIZE, WHOLE)[1] == expected
    assert imaging.upright_picture(data)[1] == expected


def test_a_png_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its orientation may come behind the pixels."""
    ended = []
    load_end = PngImagePlugin.PngImageFile.load_end

    def count(self: PngImagePlugin.PngImageFile) -> None:
        ended.append(self)
        load_end(self)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_end", count)
    data = save(colours(), "PNG")
    imaging.decode_sized(data, SIZE, WHOLE)
    assert len(ended) == 1
    imaging.upright_picture(data, SIZE)
    assert len(ended) == 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_in_xmp_is_none(format: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    extra: dict[str, Any] = {"xmp": xmp}
    if format == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        extra = {"pnginfo": info}
    data, plain = save(colours(), format, **extra), save(colours(), format)
    assert Image.open(io.BytesIO(data)).getexif()[ORIENTATION] == 6, "Pillow finds it"
    np.testing.assert_array_equal(decode(data, SIZE, WHOLE), decode(plain, SIZE, WHOLE))


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_there_is_none_of_changes_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    np.testing.assert_array_equal(
        decode(save(colours(), "JPEG", exif=exif), SIZE, WHOLE), decode(save(colours(), "JPEG"), SIZE, WHOLE)
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x09",
        # One entry: the orientation, as the text "ab".
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0ab\0\0\0\0\0\0",
    ],
)
def test_a_broken_exif_block_does_not_spoil_the_picture(exif: bytes) -> None:
    plain, broken = save(colours(), "JPEG"), save(colours(), "JPEG", exif=exif)
    np.testing.assert_array_equal(decode(broken, SIZE, WHOLE), decode(plain, SIZE, WHOLE))


@given(st.integers(2, 4000), st.integers(2, 4000), st.floats(0.05, 1))
def test_the_central_box_is_tensorflows(width: int, height: int, fraction: float) -> None:
    """tf.image.central_crop: the offset is cut to whole pixels, the same at both ends."""
    left, top, right, bottom = imaging._central_box((width, height), fraction)
    assert (left, top) == (int((width - width * fraction) / 2), int((height - height * fraction) / 2))
    assert (width - right, height - bottom) == (left, top)
    assert right > left
    assert bottom > top


def test_the_crop_leaves_out_the_border() -> None:
    """224 of 256 pixels at 0.875: a frame of 16 is not seen, one of 17 shows at the edge."""
    for border, seen in ((16, False), (17, True)):
        picture = np.zeros((256, 256, 3), np.uint8)
        picture[border:-border, border:-border] = 255
        found = decode(save(Image.fromarray(picture), "PNG"), 224, Preprocessing())
        assert bool((found < 255).any()) == seen


def test_what_is_transparent_is_white() -> None:
    found = decode(save(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), "PNG"), SIZE, WHOLE)
    assert (found == 255).all()


def test_hidden_colours_do_not_shine_through() -> None:
    """Under alpha 0 the file says red; at the edge to black there must be only greys."""
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 16, 32))
    found = decode(save(image, "PNG"), 20, WHOLE).astype(int)
    assert np.ptp(found, axis=-1).max() <= 1


def grey_with_a_transparent_level(bits: int, level: int) -> bytes:
    """Two rows of all levels of `bits`, or every 4096th of 16; written by hand, which Pillow cannot do."""
    levels = np.arange(0, 1 << bits, 4096 if bits == 16 else 1)
    if bits == 16:
        row = levels.astype(">u2").tobytes()
    else:
        row = np.packbits((levels[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)).tobytes()
    content = {
        b"IHDR": struct.pack(">IIBBBBB", len(levels), 2, bits, 0, 0, 0, 0),
        b"tRNS": struct.pack(">H", level),
        b"IDAT": zlib.compress((b"\0" + row) * 2),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in content.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_level_of_grey_that_is_transparent_is_white(bits: int) -> None:
    step = 4096 if bits == 16 else 1
    found = upright_pixels(grey_with_a_transparent_level(bits, step))[0, :, 0]
    expected = np.arange(len(found)) * step * 255 // ((1 << bits) - 1)
    expected[1] = 255
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("name", FILES)
def test_whole_pictures_are_converted_in_strips(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES[name][0]()
    whole = upright_pixels(data)
    monkeypatch.setattr(imaging, "_STRIP_PIXELS", 7 * WIDTH)  # the last strip is a narrower one
    assert np.array_equal(upright_pixels(data), whole)


def test_sixteen_bits_keep_their_high_byte() -> None:
    grey = np.asarray(colours().convert("L").convert("RGB"))
    assert difference(decode(sixteen_bits(), SIZE, WHOLE), reference(grey, SIZE, 1)) < 1


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:
    assert decode(FILES[f"{format.lower()}-animated"][0](), SIZE, WHOLE).mean() > 50


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_jpeg_decoded_smaller_looks_as_if_decoded_in_full(factor: int, orientation: int) -> None:
    width, height = 300 * factor, 200 * factor
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = save(colours(width, height), "JPEG", quality=95, exif=exif)
    header = probe(data, 10**8)
    assert header.scale(128, Preprocessing()) == factor
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    expected = reference(np.asarray(upright), 128, 0.875)
    assert difference(decode(data, 128, Preprocessing()), expected) < 1.5


@given(st.integers(2, 5000), st.integers(2, 5000), st.sampled_from([128, 160, 192, 224]))
def test_no_reduction_leaves_fewer_pixels_than_are_needed(width: int, height: int, size: int) -> None:
    scale = ImageHeader("JPEG", width, height, 1).scale(size, Preprocessing())
    assert scale == 1 or min(width, height) * 0.875 >= size * scale
    assert scale == 8 or min(width, height) // (2 * scale) * 0.875 < size
    assert ImageHeader("PNG", width, height, 1).scale(size, Preprocessing()) == 1


@pytest.mark.parametrize(
    ("extra", "farthest_on_average", "farthest"),
    [(True, 2.2, 4.8), (False, 2.6, 5.6)],
    ids=["with", "without"],
)
def test_reduced_photos_look_as_if_decoded_in_full(
    extra: bool, farthest_on_average: float, farthest: float, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all photos that are reduced, with and without the extra `resize`, in levels at every resolution."""
    if extra and resampling.VERSION is None:
        pytest.skip("the extra `resize` has no wheel for this platform")
    if not extra:
        monkeypatch.setattr(resampling, "_own", None)
    photos = [path.read_bytes() for path in sorted((shared / "images/photos").glob("*.[jJ][pP]*[gG]"))]
    for size in (128, 160, 192, 224):
        found = [
            difference(decode(data, size, Preprocessing()), reference(in_full(data), size, 0.875))
            for data in photos
            if probe(data, 1 << 28).scale(size, Preprocessing()) > 1
        ]
        assert len(found) >= 8
        assert np.mean(found) < farthest_on_average
        assert max(found) < farthest


def test_a_bitmap_looks_as_if_decoded_in_full(shared: Path) -> None:
    data = (shared / "images/photos/grace_hopper.bmp").read_bytes()
    assert difference(decode(data, 128, Preprocessing()), reference(in_full(data), 128, 0.875)) < 1


def in_full(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("format", FORMATS)
def test_sample_pictures_for_measurements(format: str) -> None:
    smooth, noisy = (sample_picture(format, 150, 90, grain=grain) for grain in (0, 16))
    assert probe(noisy, 150 * 90) == ImageHeader(format, 150, 90, len(noisy))
    assert smooth == sample_picture(format, 150, 90, grain=0)
    assert len(noisy) > len(smooth) or format == "BMP"
    assert decode(noisy, SIZE, Preprocessing()).std() > 10


def test_see_through_pictures_differ_from_opaque_ones() -> None:
    """Guards the other tests: the picture they share is visibly transparent."""
    assert np.abs(on_white(see_through()).astype(int) - on_white(colours())).mean() > 10
