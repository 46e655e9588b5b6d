"""Pictures look the same resized with and without the extra `resize`, nearly always to one level."""

import importlib.util
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model_store import imaging, jpeg, resampling
from model_store.imaging import Box, decode, resized
from model_store.manifest import Preprocessing
from tests.model_store.picture_files import save

Pixels = npt.NDArray[np.uint8]
with_the_extra = pytest.mark.skipif(resampling.VERSION is None, reason="no wheel for this platform")


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """The hardest to agree on: no value is near its neighbours'."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def by_pillow(pixels: Pixels, size: int, box: Box, filter: Image.Resampling = BILINEAR) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((size, size), filter, box=box))


def farthest(found: Pixels | None, expected: Pixels) -> int:
    assert found is not None
    assert found.shape == expected.shape
    return int(np.abs(found.astype(int) - expected).max())


@with_the_extra
@settings(deadline=None, max_examples=200)
@given(st.data())
def test_both_average_the_same(data: st.DataObject) -> None:
    """Boxes between pixels, up to all edges, of one pixel, made larger and smaller. Values are rounded after
    each pass: one level apart, and two where it happened twice, to one in thousands."""
    height, width = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 400))
    left = data.draw(st.floats(0, width - 1))
    top = data.draw(st.floats(0, height - 1))
    right = data.draw(st.just(float(width)) | st.floats(left + 1, width))
    bottom = data.draw(st.just(float(height)) | st.floats(top + 1, height))
    size = data.draw(st.sampled_from([2, 128, 160, 192, 224]))
    pixels, box = noise(height, width), (left, top, right, bottom)
    for resample, filter in ((resampling.bilinear, BILINEAR), (resampling.bicubic, BICUBIC)):
        found, expected = resample(pixels, size, box), by_pillow(pixels, size, box, filter)
        assert farthest(found, expected) <= 2
        apart = np.abs(np.asarray(found, int) - expected) > 1
        assert apart.sum() <= 1 + apart.size // 1000  # one may be, of a picture of few values too


@with_the_extra
@pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13, reason="Pillow 13 has another order of passes"
)
@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (345, 498), (345, 499), (150, 193)])
def test_nearly_all_values_are_the_same(width: int, height: int) -> None:
    """Both resize one side after the other; were another the first, a sixth would be rounded apart."""
    pixels, box = noise(height, width), (21.0, 31.0, width - 21.0, height - 31.0)
    found = resampling.bilinear(pixels, 192, box)
    assert found is not None
    assert (found != by_pillow(pixels, 192, box)).mean() < 0.02


@with_the_extra
def test_a_part_of_a_larger_picture_is_resized_as_a_copy_of_it() -> None:
    """Whose rows do not follow one another in memory."""
    whole = noise(300, 300)
    part, box = whole[20:220, 30:270], (0.5, 0.25, 239.5, 199.0)
    np.testing.assert_array_equal(resized(part, 160, box), resized(part.copy(), 160, box))


@with_the_extra
@pytest.mark.parametrize("shape", [(375, 500), (224, 500), (500, 224)], ids=["usual", "as high", "as wide"])
def test_a_picture_stays_when_the_next_is_resized_in_the_same_memory(shape: tuple[int, int]) -> None:
    first, box = noise(*shape), (1.5, 2.5, shape[1] - 1.5, shape[0] - 2.5)
    found = resized(first, 224, box)
    other = resized(noise(*shape, seed=1), 224, box)
    assert farthest(found, by_pillow(first, 224, box)) <= 2
    assert (other != found).mean() > 0.9


@with_the_extra
def test_threads_do_not_disturb_each_other() -> None:
    pictures = [noise(375, 500, seed) for seed in range(4)]
    box = (31.0, 23.0, 469.0, 352.0)
    expected = [resized(each, 224, box) for each in pictures]
    wrong: list[int] = []

    def run(i: int) -> None:
        for _ in range(50):
            if not np.array_equal(resized(pictures[i], 224, box), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("shape", [(500, 375), (263, 4001), (120, 90)], ids=["usual", "long", "small"])
def test_a_jpeg_is_the_same_without_the_extra(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = save(Image.fromarray(noise(*shape)), "JPEG", quality=95)
    found = decode(data, 224, Preprocessing())
    monkeypatch.setattr(resampling, "_own", None)
    assert farthest(found, decode(data, 224, Preprocessing())) <= 1


@with_the_extra
@pytest.mark.parametrize("shape", [(1000, 750), (2104, 4001)], ids=["half", "quarter"])
def test_a_reduced_jpeg_is_the_same_whoever_decodes_it(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = save(Image.fromarray(noise(*shape)), "JPEG", quality=95)
    found = decode(data, 224, Preprocessing())
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert farthest(found, decode(data, 224, Preprocessing())) <= 1


def test_where_it_is_not_installed_all_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    spec = importlib.util.spec_from_file_location("resampling_alone", Path(resampling.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.VERSION is None
    assert module.bilinear(noise(8, 8), 4, (0.0, 0.0, 8.0, 8.0)) is None


@with_the_extra
def test_the_decoders_version_names_it() -> None:
    """A profile that was measured without it is measured again."""
    assert str(resampling.VERSION) in imaging.DECODER_VERSION
    assert resampling.VERSION != "cykooz_resizer-"
