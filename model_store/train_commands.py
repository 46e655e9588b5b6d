"""The command that trains: `train`."""

import argparse
import hashlib
import json
from pathlib import Path

from model_store import tasks, trained
from model_store.architecture import ALPHAS
from model_store.build import TRAINED_FORMAT, Provenance, install_trained
from model_store.cli_output import print_face_metrics, print_json
from model_store.evaluate_faces import accuracy_of
from model_store.graph import read_classifier
from model_store.manifest import VariantManifest
from model_store.store import ModelStore
from model_store.training.labels import DataError
from model_store.training.metrics import FaceMetrics
from model_store.weights import NetworkWeights

_START_TASK = "imagenet"


def train(store: ModelStore, options: argparse.Namespace) -> int:
    try:
        from model_store.training.grid import train_faces
    except ImportError as error:
        raise DataError(f"{error.name} is missing: install the extra `train`") from None
    from model_store.training.plan import full_grid

    files = train_faces(full_grid(), options.data, options.work, starts(store))
    found = {alpha: _metrics(file) for alpha, file in files.items()}
    installed = [m for alpha, file in files.items() for m in _install(store, file, found[alpha])]
    if options.json:
        print_json({"installed": [manifest.model_dump(mode="json") for manifest in installed]})
        return 0
    rows: dict[tuple[str, ...], FaceMetrics] = {
        (str(alpha), str(resolution)): metrics
        for alpha, by_resolution in found.items()
        for resolution, metrics in by_resolution.items()
    }
    print_face_metrics(rows, ("alpha", "pixels"))
    print(f"installed {len(installed)} variants; `model-store quantize --task faces` makes their int8 twins")
    return 0


def starts(store: ModelStore) -> dict[float, NetworkWeights]:
    """Trained bodies to start from, by alpha: of ImageNet variants the fp32 one of the highest resolution."""
    manifests = [v.manifest for v in store.variants(_START_TASK) if v.manifest]
    floats = sorted((m for m in manifests if m.precision == "fp32"), key=lambda m: m.resolution)
    found = {m.alpha: m.id for m in floats}
    if ALPHAS[0] not in found:
        raise DataError(
            f"training starts from ImageNet weights of alpha {ALPHAS[0]}, which the store {store.root} "
            "lacks; `model-store pull imagenet` fetches them"
        )
    return {alpha: read_classifier(store.open(_START_TASK, id)[1]) for alpha, id in found.items()}


def _metrics(file: Path) -> dict[int, FaceMetrics]:
    """By resolution, as training left them beside the weights."""
    found = json.loads((file.parent / "metrics.json").read_text())
    return {int(resolution): FaceMetrics(**metrics) for resolution, metrics in found.items()}


def _install(store: ModelStore, file: Path, metrics: dict[int, FaceMetrics]) -> list[VariantManifest]:
    task = tasks.ensure_task(store, tasks.FACES.name)
    provenance = Provenance(
        format=TRAINED_FORMAT,
        location=f"{file.parent.name}/{file.name}",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        licence=tasks.FACES_LICENCE,
    )
    measured = {resolution: accuracy_of(m) for resolution, m in metrics.items()}
    return install_trained(store, task, trained.load(file), provenance, measured=measured)
