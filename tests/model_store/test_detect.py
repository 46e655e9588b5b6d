"""From predictions to faces: which boxes stay, and where they are in the picture."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model_store import boxes
from model_store.detect import find_faces
from model_store.imaging import UInt8Array
from model_store.photo import Photo
from model_store.runtime import Predictions
from model_store.ssd import DETECTOR_RESOLUTIONS, SsdSpec

BOXES = st.lists(
    st.tuples(*[st.integers(0, 50)] * 2, *[st.integers(1, 50)] * 2, st.integers(1, 99)), max_size=12
)


class White:
    """Says that there is a face where the picture is white: one box around all white pixels."""

    resolution = 160

    def run(self, images: UInt8Array) -> Predictions:
        anchors = boxes.anchors(self.resolution)
        offsets = np.zeros((1, len(anchors), 4), np.float32)
        scores = np.zeros((1, len(anchors)), np.float32)
        rows, columns = np.nonzero(images[0].min(axis=2) > 127)
        centre = np.array([rows.min() + rows.max() + 1, columns.min() + columns.max() + 1]) / 2
        size = np.array([rows.max() - rows.min() + 1, columns.max() - columns.min() + 1])
        offsets[0, 7, :2] = (centre - anchors[7, :2]) / anchors[7, 2:] * 10
        offsets[0, 7, 2:] = np.log(size / anchors[7, 2:]) * 5
        scores[0, 7] = 0.9
        return Predictions(offsets, scores)


def photo(width: int, height: int, box: tuple[int, int, int, int], orientation: int = 1) -> Photo:
    """Black, with a white `box` (left, top, right, bottom); stored as EXIF `orientation` says."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    image = Image.fromarray(pixels)
    if orientation in back:
        image = image.transpose(back[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return Photo(buffer.getvalue(), 160)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (160, 160), (100, 30)])
def test_boxes_are_in_pixels_of_the_upright_picture(width: int, height: int, orientation: int) -> None:
    left, top, right, bottom = width // 5, height // 4, width // 2, height // 4 * 3
    (face,) = find_faces(White(), photo(width, height, (left, top, right, bottom), orientation))
    step = max(width, height) / 160
    assert face.x == pytest.approx(left, abs=step)
    assert face.y == pytest.approx(top, abs=step)
    assert face.x + face.width == pytest.approx(right, abs=step)
    assert face.y + face.height == pytest.approx(bottom, abs=step)


@given(BOXES)
def test_of_boxes_that_overlap_the_surest_stays(found: list[tuple[int, ...]]) -> None:
    corners = np.array([(y, x, y + h, x + w) for y, x, h, w, _ in found], np.float32).reshape(-1, 4)
    scores = np.array([score / 100 for *_, score in found], np.float32)
    kept = boxes.suppress(corners, scores, max_overlap=0.5, max_boxes=100)
    assert sorted(scores[kept], reverse=True) == list(scores[kept])
    for index in range(len(found)):
        overlaps = boxes.intersection_over_union(corners[index], corners[kept])
        if index in kept:
            assert (overlaps > 0.5).sum() == 1  # itself
        else:
            assert scores[kept][overlaps > 0.5].max() >= scores[index]


def test_no_more_boxes_than_asked_for() -> None:
    corners = np.array([(0, 10 * i, 5, 10 * i + 5) for i in range(8)], np.float32)
    scores = np.linspace(0.2, 0.9, 8).astype(np.float32)
    assert boxes.suppress(corners, scores, max_overlap=0.5, max_boxes=3) == [7, 6, 5]


def test_a_box_outside_the_picture_is_none() -> None:
    """In the padding, or past the edge: what is left of it is cut off there."""
    anchors = boxes.anchors(160)
    low = int(np.argmax(anchors[:, 0]))
    offsets = np.zeros((len(anchors), 4), np.float32)
    offsets[:, 2:] = -20
    scores = np.zeros(len(anchors), np.float32)
    scores[low] = 0.9

    class Fixed:
        resolution = 160

        def run(self, images: UInt8Array) -> Predictions:
            return Predictions(offsets[np.newaxis], scores[np.newaxis])

    assert find_faces(Fixed(), photo(160, 40, (0, 0, 9, 9))) == []
    offsets[:, 2:] = 20  # 54 times as large
    (face,) = find_faces(Fixed(), photo(160, 40, (0, 0, 9, 9)))
    assert (face.x, face.y, face.width, face.height) == (0, 0, 160, 40)


@pytest.mark.parametrize("resolution", DETECTOR_RESOLUTIONS)
def test_anchors_keep_their_pixels_at_every_size(resolution: int) -> None:
    anchors = boxes.anchors(resolution)
    assert len(anchors) == SsdSpec(resolution).anchors
    assert {tuple(shape) for shape in anchors[:, 2:].tolist()} == {
        tuple(shape) for shape in boxes.anchors(512)[:, 2:].tolist()
    }
