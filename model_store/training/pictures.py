"""The pictures of both data sets, decoded once into files that are mapped into memory."""

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store import atomic
from model_store.faces import ATTRIBUTES
from model_store.imaging import upright_pixels
from model_store.progress import Tracker, track
from model_store.training.labels import DataError, age_of, read_attributes
from model_store.training.split import (
    Mask,
    difference_hash,
    file_hash,
    near_groups,
    validation_mask,
)

CELEBA_SIZE = (89, 109)  # width, height, as they come
UTKFACE_SIZE = (200, 200)
_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class FaceSet:
    """One data set. What a picture has no label for is NaN."""

    name: str
    images: npt.NDArray[np.uint8]  # [N, H, W, 3]
    attributes: npt.NDArray[np.float32]  # [N, 40], 0 or 1
    ages: npt.NDArray[np.float32]  # [N] years
    validation: Mask

    @property
    def training_rows(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~self.validation)

    @property
    def validation_rows(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.validation)


def load_faces(data: Path, cache: Path, seed: int) -> tuple[FaceSet, FaceSet]:
    """CelebA and UTKFace of the folder `data`, from `cache` where they were decoded before.

    Raises DataError where files are missing.
    """
    return (
        _load(data / "celeba.zip", cache, seed, CELEBA_SIZE, _celeba_labels(data)),
        _load(data / "utkface.zip", cache, seed, UTKFACE_SIZE, _age_label),
    )


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFace:
    """A file as it is. What it has no label for is NaN."""

    name: str
    data: bytes
    attributes: npt.NDArray[np.float32]  # [40], 0 or 1
    age: float


def validation_files(data: Path, seed: int) -> list[LabelledFace]:
    """The files that training keeps for validation, of both data sets. Raises DataError."""
    found = []
    for archive, labeller in (
        (data / "celeba.zip", _celeba_labels(data)),
        (data / "utkface.zip", _age_label),
    ):
        if not archive.is_file():
            raise DataError(f"there is no {archive}")
        with zipfile.ZipFile(archive) as source:
            names = _labelled(source, labeller)
            files, hashes = [], []
            with track(f"split {archive.name}", len(names), unit="pictures") as tracker:
                for _, content in _members(source, names, tracker):
                    files.append(file_hash(content, seed))
                    hashes.append(difference_hash(upright_pixels(content)))
            kept = validation_mask(files, near_groups(np.stack(hashes)))
            for name, chosen in zip(names, kept, strict=True):
                label = labeller(name) if chosen else None
                if label:
                    found.append(LabelledFace(name, source.read(name), *label))
    return found


_Labeller = Callable[[str], tuple[npt.NDArray[np.float32], float] | None]
_NO_ATTRIBUTES = np.full(len(ATTRIBUTES), np.nan, np.float32)


def _celeba_labels(data: Path) -> _Labeller:
    path = data / "celeba_attributes.csv"
    if not path.is_file():
        raise DataError(f"there is no {path}")
    with path.open(newline="") as file:
        found = read_attributes(file)
    return lambda name: (found[name], np.nan) if name in found else None


def _age_label(name: str) -> tuple[npt.NDArray[np.float32], float] | None:
    age = age_of(name)
    return None if age is None else (_NO_ATTRIBUTES, float(age))


def _load(archive: Path, cache: Path, seed: int, size: tuple[int, int], labeller: _Labeller) -> FaceSet:
    if not archive.is_file():
        raise DataError(f"there is no {archive}")
    name = archive.stem
    images, index = cache / f"{name}.npy", cache / f"{name}.json"
    source = {"version": _VERSION, "bytes": archive.stat().st_size, "seed": seed}
    known = json.loads(index.read_text()) if index.is_file() else {}
    if known.get("source") != source:
        cache.mkdir(parents=True, exist_ok=True)
        known = {"source": source, **_decode_all(archive, images, seed, size, labeller)}
        atomic.write(index, json.dumps(known).encode())  # last: it says that the pictures are complete
    labels = [label for label in map(labeller, known["files"]) if label]
    return FaceSet(
        name,
        np.load(images, mmap_mode="r"),
        np.stack([label[0] for label in labels]),
        np.array([label[1] for label in labels], np.float32),
        np.array(known["validation"], bool),
    )


def _decode_all(
    archive: Path, target: Path, seed: int, size: tuple[int, int], labeller: _Labeller
) -> dict[str, Any]:
    """Writes the pictures that have a label and the size to `target`; their names and split."""
    with zipfile.ZipFile(archive) as source:
        names = _labelled(source, labeller)
        shape = (len(names), size[1], size[0], 3)
        pictures = np.lib.format.open_memmap(target, "w+", np.uint8, shape)
        kept: list[str] = []
        files, hashes = [], []
        with track(f"decode {archive.name}", len(names), unit="pictures") as tracker:
            for name, data in _members(source, names, tracker):
                picture = upright_pixels(data)
                if picture.shape != shape[1:]:
                    raise DataError(f"{name} has {picture.shape[1]} x {picture.shape[0]} pixels, not {size}")
                pictures[len(kept)] = picture
                kept.append(name)
                files.append(file_hash(data, seed))
                hashes.append(difference_hash(picture))
        pictures.flush()
    groups = near_groups(np.stack(hashes))
    validation = validation_mask(files, groups)
    return {"files": kept, "validation": validation.tolist(), "groups": len(set(groups.tolist()))}


def _labelled(source: zipfile.ZipFile, labeller: _Labeller) -> list[str]:
    names = sorted(name for name in source.namelist() if labeller(name))
    if not names:
        raise DataError(f"{source.filename} has no pictures with labels")
    return names


def _members(source: zipfile.ZipFile, names: list[str], tracker: Tracker) -> Iterator[tuple[str, bytes]]:
    for done, name in enumerate(names, start=1):
        yield name, source.read(name)
        tracker.update(done)
