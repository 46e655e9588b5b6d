"""Faces in a photo: a detector's predictions as boxes in the upright picture's pixels."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from model_store import boxes
from model_store.boxes import FloatArray
from model_store.imaging import Box, UInt8Array
from model_store.photo import Photo
from model_store.runtime import Predictions
from model_store.ssd import TRAINED_RESOLUTION

MAX_FACES = 100
_MIN_SCORE = 0.5  # face-api's own
_MIN_SCORE_BELOW = 0.3  # at other sizes than the trained one, where scores fall before faces are lost
_MAX_OVERLAP = 0.5  # intersection over union of two boxes that are two faces


# What networks of faces are shown of a face, as their training pictures show it: in shares of the
# detector's box, the sides of the crop, and how far its centre lies above the box's. Measured on CelebA and
# UTKFace (docs/faces.md).
_WIDTH, _HEIGHT, _ABOVE = 1.7, 1.5, 0.04


class Detector(Protocol):
    """What runs a detector; see `runtime.OnnxDetector`."""

    @property
    def resolution(self) -> int: ...

    def run(self, images: UInt8Array) -> Predictions: ...


@dataclass(frozen=True, slots=True)
class Face:
    """A box inside the picture, in pixels of the upright picture, and the probability that it is a face."""

    x: float
    y: float
    width: float
    height: float
    score: float


def surroundings(face: Face) -> Box:
    """The part of the picture that a network of faces sees; it may reach beyond the picture."""
    x, y = face.x + face.width / 2, face.y + face.height * (0.5 - _ABOVE)
    width, height = face.width * _WIDTH / 2, face.height * _HEIGHT / 2
    return x - width, y - height, x + width, y + height


def usual_min_score(resolution: int) -> float:
    """What a box must score to be called a face, by the size of the input."""
    return _MIN_SCORE if resolution == TRAINED_RESOLUTION else _MIN_SCORE_BELOW


def find_faces(
    detector: Detector, photo: Photo, *, min_score: float | None = None, max_faces: int = MAX_FACES
) -> list[Face]:
    """Faces in a photo that was decoded for the detector, the surest first.

    `min_score` is `usual_min_score` unless given.
    """
    offsets, scores = detector.run(photo.whole()[np.newaxis])
    return faces_of(
        offsets[0], scores[0], detector.resolution, photo.size, min_score=min_score, max_faces=max_faces
    )


def faces_of(
    offsets: FloatArray,
    scores: FloatArray,
    resolution: int,
    size: tuple[int, int],
    *,
    min_score: float | None = None,
    max_faces: int = MAX_FACES,
) -> list[Face]:
    """Faces in one picture of upright `size` (width, height), from its `offsets` [anchors, 4] and `scores`
    [anchors]."""
    least = usual_min_score(resolution) if min_score is None else min_score
    likely = np.flatnonzero(scores > least)
    found = boxes.decode(offsets[likely], boxes.anchors(resolution)[likely])
    kept = boxes.suppress(found, scores[likely], max_overlap=_MAX_OVERLAP, max_boxes=max_faces)
    faces = []
    for index in kept:
        top, left, bottom, right = _to_picture(found[index], resolution, size)
        if bottom > top and right > left:  # not in the padding altogether
            score = float(scores[likely[index]])
            faces.append(Face(left, top, right - left, bottom - top, score))
    return faces


def _to_picture(box: FloatArray, resolution: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) in the picture's pixels, cut off at its edges."""
    width, height = size
    found = (box * (max(size) / resolution)).clip(0, [height, width] * 2)
    top, left, bottom, right = (float(value) for value in found)
    return top, left, bottom, right
