"""JPEG pictures look the same with simplejpeg and with Pillow alone: every kind, whole or damaged."""

import importlib.util
import io
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from model_store import headers, imaging, jpeg
from model_store.imaging import ImageError, ImageHeader, UnreadableImage, decode, probe, upright_picture
from model_store.manifest import Preprocessing
from tests.model_store.picture_files import colours, save

Pixels = npt.NDArray[np.uint8]
PREPROCESSING = Preprocessing()
ORIENTATION = 0x0112
with_simplejpeg = pytest.mark.skipif(jpeg.VERSION is None, reason="simplejpeg has no wheel for this platform")


def busy(width: int, height: int) -> Image.Image:
    """Colours with edges that chroma subsampling and each scale treat in their own way."""
    pixels = np.asarray(colours(width, height)).copy()
    pixels[::7] //= 2
    pixels[:, ::5, 1] = 255
    return Image.fromarray(pixels)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return save(busy(600, 400), "JPEG", exif=exif)


def patched(data: bytes, marker: bytes, offset: int, value: int) -> bytes:
    """With one byte changed in the first segment of that marker."""
    changed = bytearray(data)
    changed[data.index(marker) + offset] = value
    return bytes(changed)


def cmyk() -> bytes:
    return save(busy(500, 375).convert("CMYK"), "JPEG")


def subsampled(kind: str) -> Callable[[], bytes]:
    """Kinds that Pillow does not write."""

    def make() -> bytes:
        simplejpeg = pytest.importorskip("simplejpeg", reason="no wheel for this platform")
        pixels = np.asarray(busy(600, 400))
        return bytes(simplejpeg.encode_jpeg(pixels, colorsubsampling=kind))

    return make


def jpeg_of(width: int, height: int, **options: object) -> Callable[[], bytes]:
    return lambda: save(busy(width, height), "JPEG", **options)


FILES: dict[str, Callable[[], bytes]] = {
    "500x375": jpeg_of(500, 375),
    "1280x720": jpeg_of(1280, 720),
    "3001x2003": jpeg_of(3001, 2003),
    "263x4001": jpeg_of(263, 4001),
    "37x23": jpeg_of(37, 23),
    "2x2": jpeg_of(2, 2),
    "2x900": jpeg_of(2, 900),
    "4:4:4": jpeg_of(601, 399, subsampling="4:4:4"),
    "4:2:2": jpeg_of(601, 399, subsampling="4:2:2"),
    "4:2:0": jpeg_of(601, 399, subsampling="4:2:0"),
    "4:1:1": subsampled("411"),
    "4:4:0": subsampled("440"),
    **{f"orientation-{o}": partial(turned, o) for o in range(1, 9)},
    "grey": lambda: save(busy(601, 399).convert("L"), "JPEG"),
    "cmyk": cmyk,
    "ycck": lambda: patched(cmyk(), b"Adobe", 11, 2),
    "rgb": jpeg_of(601, 399, keep_rgb=True),
    "progressive": jpeg_of(601, 399, progressive=True),
    "restart-markers": jpeg_of(601, 399, restart_marker_blocks=3),
    "more-behind-it": lambda: save(busy(601, 399), "JPEG") + bytes(100),
    # Not what was encoded, but what an arithmetic decoder makes of it, with warnings.
    "arithmetic": lambda: patched(save(colours(), "JPEG"), b"\xff\xc0", 1, 0xC9),
}


@pytest.fixture
def pillow_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, int], Pixels]:
    def run(data: bytes, size: int) -> Pixels:
        with monkeypatch.context() as without:
            without.setattr(jpeg, "simplejpeg", None)
            return decode(data, size, PREPROCESSING)

    return run


@pytest.mark.parametrize("size", [128, 224])
@pytest.mark.parametrize("name", FILES)
def test_both_see_the_same(name: str, size: int, pillow_alone: Callable[[bytes, int], Pixels]) -> None:
    data = FILES[name]()
    found, expected = decode(data, size, PREPROCESSING), pillow_alone(data, size)
    difference = np.abs(found.astype(int) - expected)
    assert difference.mean() < 0.5
    assert difference.max() <= 8


@pytest.mark.parametrize("name", FILES)
def test_both_read_the_same_header(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES[name]()
    header = probe(data, 10**8)
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert probe(data, 10**8) == header
    assert Image.open(io.BytesIO(data)).size == (header.width, header.height)


@pytest.mark.parametrize("name", FILES)
def test_the_frame_is_what_pillow_reads(name: str) -> None:
    data = FILES[name]()
    frame = headers.frame(data)
    assert frame is not None
    assert (frame.width, frame.height) == Image.open(io.BytesIO(data)).size
    assert frame.progressive == (name == "progressive")


@pytest.mark.parametrize("offset", [5, 7], ids=["height", "width"])
def test_a_side_of_nothing_is_refused(offset: int) -> None:
    """A height of 0 is told at the end of the first scan; nobody writes such files."""
    data = save(busy(200, 200), "JPEG")
    empty = patched(patched(data, b"\xff\xc0", offset, 0), b"\xff\xc0", offset + 1, 0)
    with pytest.raises(UnreadableImage):
        probe(empty, 10**8)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_picture_narrower_than_the_reduction(
    mode: str, pillow_alone: Callable[[bytes, int], Pixels]
) -> None:
    data = save(busy(7, 4000).convert(mode), "JPEG")
    assert upright_picture(data, 256)[1] == (7, 4000)
    assert pillow_alone(data, 128).shape == (128, 128, 3)


@with_simplejpeg
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("grey", [False, True])
def test_a_file_is_reduced_as_asked(scale: int, grey: bool) -> None:
    """Never left to Pillow unnoticed, and of the size that Pillow's own reduction has."""
    width, height = 601, 399
    image = busy(width, height).convert("L" if grey else "RGB")
    pixels = jpeg.decode(save(image, "JPEG"), (width, height), scale, grey=grey)
    assert pixels is not None
    assert pixels.shape == (-(-height // scale), -(-width // scale), 1 if grey else 3)


@with_simplejpeg
def test_a_size_that_is_not_the_files_is_refused() -> None:
    data = save(busy(64, 48), "JPEG")
    assert jpeg.decode(data, (64, 48), 1, grey=False) is not None
    for stored in ((48, 64), (63, 48), (640, 480), (6, 4)):
        assert jpeg.decode(data, stored, 1, grey=False) is None


@with_simplejpeg
@pytest.mark.parametrize("stored", [(2000, 1400), (2200, 1600)], ids=["smaller", "larger"])
def test_of_a_large_picture_the_size_is_compared_before_it_is_decoded(
    stored: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is decoded to memory of its own, as much as the file says."""
    data = save(busy(2100, 1500), "JPEG")
    assert jpeg.decode(data, (2100, 1500), 1, grey=False) is not None
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *_, **__: pytest.fail("it was decoded"))
    assert jpeg.decode(data, stored, 1, grey=False) is None


@pytest.mark.parametrize("shape", [(500, 375), (1700, 1400)], ids=["kept buffer", "larger than is kept"])
def test_an_answer_survives_the_next_picture(shape: tuple[int, int]) -> None:
    """The buffer that files are decoded to is reused; what was handed out is not."""
    for mode in ("RGB", "L"):
        first = decode(save(busy(*shape).convert(mode), "JPEG"), 224, PREPROCESSING)
        kept = first.copy()
        decode(save(Image.new(mode, shape), "JPEG"), 224, PREPROCESSING)
        np.testing.assert_array_equal(first, kept)


def test_threads_do_not_share_their_buffers() -> None:
    files = [save(busy(300 + 40 * i, 300), "JPEG") for i in range(4)]
    expected = [decode(data, 160, PREPROCESSING) for data in files]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(decode(files[i], 160, PREPROCESSING), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_other_threads_run_while_a_picture_is_decoded(kind: str) -> None:
    """Nobody is forced to give way here: only a decoder that releases the interpreter lets others in."""
    data = save(busy(3000, 2000), kind)
    decode(data, 224, PREPROCESSING)
    done = threading.Event()

    def work() -> None:
        decode(data, 224, PREPROCESSING)
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        for _ in range(5):  # a busy machine may wake this thread too late
            done.clear()
            thread = threading.Thread(target=work)
            thread.start()
            overlapped = not done.is_set()
            thread.join()
            if overlapped:
                return
    finally:
        sys.setswitchinterval(interval)
    pytest.fail("decoding held the interpreter from start to end")


def outcome(run: Callable[[], Pixels]) -> str | Pixels:
    try:
        return run()
    except ImageError as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("name", ["500x375", "grey", "progressive", "restart-markers", "orientation-6"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_told_the_same(
    name: str, data: st.DataObject, pillow_alone: Callable[[bytes, int], Pixels]
) -> None:
    damaged = bytearray(FILES[name]())
    where = st.integers(0, 700) | st.integers(0, len(damaged) - 1)
    for position in data.draw(st.lists(where, max_size=5)):
        damaged[position] = data.draw(st.integers(0, 255))
    kept = bytes(damaged[: data.draw(st.integers(1, len(damaged)) | st.just(len(damaged)))])
    found = outcome(lambda: decode(kept, 128, PREPROCESSING))
    expected = outcome(lambda: pillow_alone(kept, 128))
    if isinstance(found, str) or isinstance(expected, str):
        assert found == expected
    else:
        assert np.abs(found.astype(int) - expected).mean() < 0.5


@pytest.mark.parametrize("cut", [1, 2, 3, 100, 2000])
def test_a_file_that_lacks_its_end(cut: int) -> None:
    with pytest.raises(UnreadableImage, match="truncated or damaged"):
        decode(save(busy(300, 300), "JPEG")[:-cut], 128, PREPROCESSING)


@pytest.mark.parametrize(("offset", "value"), [(4, 12), (1, 0xC3)], ids=["12-bit", "lossless"])
def test_kinds_that_nobody_reads_are_unreadable(offset: int, value: int) -> None:
    data = patched(save(busy(300, 300), "JPEG"), b"\xff\xc0", offset, value)
    with pytest.raises(UnreadableImage):
        decode(data, 128, PREPROCESSING)


def without_the_library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    spec = importlib.util.spec_from_file_location("jpeg_without_its_library", Path(jpeg.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_where_there_is_no_wheel_all_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    module = without_the_library(monkeypatch)
    data = save(colours(), "JPEG")
    assert module.VERSION is None
    assert module.decode(data, colours().size, 1, grey=False) is None


@with_simplejpeg
def test_the_decoders_version_names_both_libraries() -> None:
    """A profile that was measured with other versions is measured again."""
    assert imaging.DECODER_VERSION.startswith("pillow-")
    assert str(jpeg.VERSION) in imaging.DECODER_VERSION
    assert jpeg.VERSION != "simplejpeg-"


def test_a_multi_picture_file_is_a_jpeg() -> None:
    data = save(busy(640, 480), "MPO", save_all=True, append_images=[Image.new("RGB", (640, 480))])
    assert probe(data, 10**8) == ImageHeader("JPEG", 640, 480, len(data))
    assert decode(data, 128, PREPROCESSING).mean() > 50
