"""The face networks that come with the product: all of them are there, and answer as the model card says."""

import itertools
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from bench.face_card import ACCURACY, CARD
from model_store import evaluate_faces, shipped, trained
from model_store.architecture import ALPHAS, RESOLUTIONS
from model_store.faces import ATTRIBUTES
from model_store.manifest import FaceAccuracy
from model_store.opening import open_variant
from model_store.runtime import OnnxSession
from model_store.store import ModelStore
from model_store.tasks import FACES_LICENCE
from model_store.training.labels import age_of, read_attributes
from model_store.training.pictures import LabelledFace
from model_store.training.split import SEED, VALIDATION_SHARE, file_hash

LARGEST, SMALLEST = "mobilenet_v1_1.0_224", "mobilenet_v1_0.25_128"
PICTURES = 300  # of each data set


def accuracies() -> dict[str, FaceAccuracy]:
    return {v: FaceAccuracy.model_validate(a) for v, a in json.loads(ACCURACY.read_text()).items()}


def test_each_alpha_comes_for_every_resolution_and_all_have_less_than_15_mb() -> None:
    files = [file.read_bytes() for file in shipped.weight_files()]
    networks = [trained.load_bytes(data) for data in files]
    assert [n.alpha for n in networks] == list(ALPHAS)
    assert all(n.resolutions == RESOLUTIONS for n in networks)
    assert sum(map(len, files)) < 15e6
    assert len(accuracies()) == shipped.variant_count() == 8 * len(networks)


def test_the_card_tells_what_the_manifests_tell() -> None:
    card = CARD.read_text()
    for variant, accuracy in accuracies().items():
        _, _, alpha, resolution, _ = variant.split("_")
        line = next(line for line in card.splitlines() if line.startswith(f"| {alpha} | {resolution} |"))
        assert f"{100 * accuracy.mean_accuracy:.1f} ± " in line
        assert f"{accuracy.age_error_years:.2f} ± " in line


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Of the largest and the smallest alpha."""
    store = ModelStore(tmp_path_factory.mktemp("shipped") / "store")
    files = shipped.weight_files()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipped, "weight_files", lambda: [files[0], files[-1]])
        installed = [manifest.id for manifest in shipped.install(store)]
    assert len(set(installed)) == 16
    return store


@pytest.fixture(scope="module")
def faces(shared: Path) -> list[LabelledFace]:
    """Pictures that were kept for validation: a file whose own hash says so is, whatever group it is in."""
    with (shared / "faces" / "celeba_attributes.csv").open(newline="") as file:
        attributes = read_attributes(file)
    unknown = np.full(len(ATTRIBUTES), np.nan, np.float32)
    celeba = kept(shared / "faces" / "celeba.zip", lambda name: name in attributes)
    utkface = kept(shared / "faces" / "utkface.zip", lambda name: age_of(name) is not None)
    return [
        *(LabelledFace(name, data, attributes[name], np.nan) for name, data in celeba),
        *(LabelledFace(name, data, unknown, float(age_of(name) or 0)) for name, data in utkface),
    ]


def kept(archive: Path, labelled: Callable[[str], bool]) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as source:
        names = sorted(filter(labelled, source.namelist()))
        random.Random(0).shuffle(names)  # UTKFace's begin with the age
        files = ((name, source.read(name)) for name in names)
        chosen = (f for f in files if file_hash(f[1], SEED) < VALIDATION_SHARE * 2**64)
        return list(itertools.islice(chosen, PICTURES))


def test_manifests_name_licence_origin_and_accuracy(store: ModelStore) -> None:
    for variant in store.variants("faces"):
        manifest = variant.manifest
        assert manifest is not None
        assert manifest.licence == FACES_LICENCE
        assert manifest.origin.location in ("faces/1.0.npz", "faces/0.25.npz")
        assert manifest.measured == manifest.accuracy == accuracies()[variant.id]


@pytest.mark.parametrize("variant", [f"{LARGEST}_int8", f"{SMALLEST}_fp32", f"{SMALLEST}_int8"])
def test_they_are_as_good_as_the_card_says(
    variant: str, store: ModelStore, faces: list[LabelledFace]
) -> None:
    task = store.task("faces")
    manifest, session = open_variant(store, task, variant)
    found = evaluate_faces.evaluate(
        cast(OnnxSession, session), manifest.resolution, task.preprocessing, faces
    )
    said = accuracies()[variant]
    assert abs(found.mean_accuracy - said.mean_accuracy) < 2 * found.mean_accuracy_half
    assert abs(found.age_error_years - said.age_error_years) < 2 * found.age_error_half
