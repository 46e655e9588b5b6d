"""What the data sets say about their pictures: 40 attributes of CelebA, the age of UTKFace. Pure."""

import csv
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from model_store.faces import ATTRIBUTES

# age_gender_race_date.jpg.chip.jpg: nothing but the age is read.
_UTKFACE = re.compile(r"(?:.*/)?(?P<age>\d{1,3})_.*\.jpe?g", re.IGNORECASE)

Labels = npt.NDArray[np.float32]


class DataError(Exception):
    """The data cannot be trained on; the text says what is missing."""


def age_of(name: str) -> int | None:
    """Years, from the name of a UTKFace file; None where it does not tell."""
    match = _UTKFACE.fullmatch(name)
    return int(match["age"]) if match and int(match["age"]) > 0 else None


def read_attributes(lines: Iterable[str]) -> dict[str, Labels]:
    """By file name: 0 or 1 in the order of `ATTRIBUTES`, from a CSV with `image_id` and those columns.

    CelebA's own -1 counts as 0. Raises DataError for columns that are missing and for other values.
    """
    reader = csv.DictReader(lines)
    missing = [name for name in ("image_id", *ATTRIBUTES) if name not in (reader.fieldnames or [])]
    if missing:
        raise DataError(f"the attributes have no column {missing[0]}")
    found = {}
    for row in reader:
        values = [row[name] for name in ATTRIBUTES]
        if not set(values) <= {"0", "1", "-1"}:
            raise DataError(f"the attributes of {row['image_id']} are not all 0 or 1")
        found[row["image_id"]] = np.array([value == "1" for value in values], np.float32)
    return found
