"""The face networks that come with the product: weights trained here, and what was measured of them.

tasks/faces/weights/<alpha>.npz    as `trained` describes them; docs/face-networks.md is their model card
tasks/faces/accuracy.json          by variant id, on the pictures kept for validation
"""

import hashlib
import json
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from model_store import build, tasks, trained
from model_store.architecture import RESOLUTIONS
from model_store.manifest import FaceAccuracy, VariantManifest, variant_id
from model_store.store import ModelStore


def weight_files() -> list[Traversable]:
    """One an alpha, the largest first; none in an image that only serves."""
    folder = _folder() / "weights"
    files = [file for file in folder.iterdir() if file.name.endswith(".npz")] if folder.is_dir() else []
    return sorted(files, key=lambda file: file.name, reverse=True)


def variant_count() -> int:
    """How many `install` installs."""
    return 2 * len(RESOLUTIONS) * len(weight_files())


def install(store: ModelStore) -> Iterator[VariantManifest]:
    """Installs all of them: each fp32 variant, and then its int8 twin. Raises StoreError."""
    task = tasks.ensure_task(store, tasks.FACES.name)
    measured = _accuracies()
    for file in weight_files():
        data = file.read_bytes()
        network = trained.load_bytes(data)
        provenance = build.Provenance(
            format=build.TRAINED_FORMAT,
            location=f"faces/{file.name}",
            sha256=hashlib.sha256(data).hexdigest(),
            licence=tasks.FACES_LICENCE,
        )
        for resolution in network.resolutions:
            manifest = build.install_network(
                store, task, network.at(resolution), provenance,
                measured=measured.get(variant_id(network.alpha, resolution, "fp32")),
            )  # fmt: skip
            yield manifest
            twin = measured.get(variant_id(network.alpha, resolution, "int8"))
            yield build.quantize_variant(store, task, manifest.id, measured=twin)


def _accuracies() -> dict[str, FaceAccuracy]:
    found = json.loads((_folder() / "accuracy.json").read_text("utf-8"))
    return {variant: FaceAccuracy.model_validate(accuracy) for variant, accuracy in found.items()}


def _folder() -> Traversable:
    return resources.files(tasks).joinpath(tasks.FACES.name)
