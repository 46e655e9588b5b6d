"""Accuracy on labelled pictures, through the same decoding and runtime that serve."""

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_store.imaging import ImageError, decode
from model_store.manifest import Accuracy, Preprocessing
from model_store.runtime import Session

_Z95 = 1.96


class LabelsError(Exception):
    """The folder of labelled pictures cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    path: Path
    index: int  # class, 0-based without background


def read_labels(folder: Path, classes: int) -> list[LabelledPicture]:
    """Pictures of a folder with a `labels.csv` (columns `file` and `index`). Raises LabelsError."""
    path = folder / "labels.csv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(row["file"], int(row["index"])) for row in csv.DictReader(file)]
    except OSError as error:
        raise LabelsError(f"{path} cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise LabelsError(f"{path} needs the columns file and index (an integer)") from error
    if not rows:
        raise LabelsError(f"{path} names no pictures")
    for number, (name, _) in enumerate(rows, start=1):
        if not name or "\0" in name:
            raise LabelsError(f"{path} names no file for picture {number}")
    wrong = next((index for _, index in rows if not 0 <= index < classes), None)
    if wrong is not None:
        raise LabelsError(f"{path} has the class {wrong}; classes are 0 to {classes - 1}")
    return [LabelledPicture(folder / name, index) for name, index in rows]


def evaluate(
    session: Session,
    resolution: int,
    preprocessing: Preprocessing,
    pictures: list[LabelledPicture],
    *,
    dataset: str,
    note: str = "",
    on_picture: Callable[[], None] = lambda: None,
) -> Accuracy:
    """Top-1 and top-5 of one variant over `pictures`. Raises LabelsError for one that cannot be read."""
    top1 = top5 = 0
    for index, ranked in _ranked(session, resolution, preprocessing, pictures):
        top1 += bool(ranked[0] == index)
        top5 += bool(index in ranked[:5])
        on_picture()
    total = len(pictures)
    return Accuracy(
        top1=top1 / total,
        top5=top5 / total,
        source="measured",
        dataset=dataset,
        pictures=total,
        note=note,
    )


def half_interval(accuracy: float, pictures: int) -> float:
    """Half the width of the 95 % confidence interval of a share over `pictures` (normal approximation)."""
    return _Z95 * math.sqrt(accuracy * (1 - accuracy) / pictures)


def _ranked(
    session: Session,
    resolution: int,
    preprocessing: Preprocessing,
    pictures: list[LabelledPicture],
) -> Iterator[tuple[int, list[int]]]:
    """(true class, classes by falling score) of each picture."""
    for picture in pictures:
        try:
            image = decode(picture.path.read_bytes(), resolution, preprocessing)
        except (OSError, ImageError) as error:
            raise LabelsError(f"{picture.path.name} cannot be read: {error}") from None
        scores = session.run(image[np.newaxis])[0]
        yield picture.index, [int(i) for i in np.argsort(-scores, kind="stable")]
