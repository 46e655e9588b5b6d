"""The one way into the store: weights -> graph -> checked -> manifest -> installed."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_store.architecture import RESOLUTIONS, MobileNetSpec
from model_store.graph import build_classifier
from model_store.importers import frozen_graph, keras_h5, onnx_model, tfjs, tflite
from model_store.manifest import (
    Accuracy,
    Origin,
    Precision,
    TaskManifest,
    VariantManifest,
    variant_id,
)
from model_store.runtime import OnnxSession
from model_store.store import ModelStore
from model_store.weights import NetworkWeights, WeightsError

_WEIGHTS_LOADERS: dict[str, tuple[str, Callable[[Path], NetworkWeights]]] = {
    ".pb": ("frozen GraphDef", frozen_graph.load),
    ".tflite": ("TensorFlow Lite", tflite.load),
    ".json": ("TensorFlow.js", tfjs.load),
    ".h5": ("Keras HDF5", keras_h5.load),
    ".hdf5": ("Keras HDF5", keras_h5.load),
}
FORMATS = ".pb, .tflite, .h5, .hdf5, model.json (TensorFlow.js) or its folder, .onnx"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where weights come from, as the manifest will say it."""

    format: str
    location: str
    sha256: str
    licence: str


def load_weights(path: Path) -> tuple[str, NetworkWeights]:
    """(format, weights) of a file by its suffix. Raises WeightsError."""
    suffix = ".json" if path.is_dir() else path.suffix.lower()
    if suffix not in _WEIGHTS_LOADERS:
        raise WeightsError(f"{path.name} is of no format that can be imported: {FORMATS}")
    format, load = _WEIGHTS_LOADERS[suffix]
    return format, load(path)


def install_weights(
    store: ModelStore,
    task: TaskManifest,
    weights: NetworkWeights,
    provenance: Provenance,
    *,
    resolution: int | None = None,
    accuracy: Accuracy | None = None,
    measured: Accuracy | None = None,
) -> VariantManifest:
    """Builds and installs one fp32 variant; `resolution` is the trained one unless given.

    Raises WeightsError when the weights do not fit the task, or the resolution is unknown.
    """
    resolution = resolution or weights.trained_resolution
    if resolution not in RESOLUTIONS:
        wanted = ", ".join(str(r) for r in RESOLUTIONS)
        raise WeightsError(f"the resolution {resolution} is not one of {wanted}; choose one")
    if weights.classes != task.classes:
        raise WeightsError(f"{weights.classes} classes, but {task.name} has {task.classes}")
    model = build_classifier(weights, resolution)
    _check_runs(model, resolution, task.classes)
    return _install(
        store, task, model, weights.alpha, resolution, "fp32", provenance,
        trained_resolution=weights.trained_resolution, accuracy=accuracy, measured=measured,
    )  # fmt: skip


def install_file(
    store: ModelStore,
    task: TaskManifest,
    path: Path,
    *,
    resolution: int | None,
    location: str,
    licence: str,
) -> VariantManifest:
    """Imports a weights file or a finished ONNX model. Raises WeightsError."""
    if path.suffix.lower() == ".onnx":
        found = onnx_model.load(path, task.classes)
        if resolution not in (None, found.resolution):
            raise WeightsError(f"{path.name} is built for {found.resolution} pixels, not {resolution}")
        provenance = Provenance("ONNX", location, _sha256(path), licence)
        precision: Precision = "int8" if found.quantized else "fp32"
        return _install(
            store, task, found.model, found.alpha, found.resolution, precision, provenance,
            trained_resolution=None,
        )  # fmt: skip
    format, weights = load_weights(path)
    provenance = Provenance(format, location, _sha256(path), licence)
    return install_weights(store, task, weights, provenance, resolution=resolution)


def _install(
    store: ModelStore,
    task: TaskManifest,
    model: bytes,
    alpha: float,
    resolution: int,
    precision: Precision,
    provenance: Provenance,
    *,
    trained_resolution: int | None,
    accuracy: Accuracy | None = None,
    measured: Accuracy | None = None,
) -> VariantManifest:
    spec = MobileNetSpec(alpha, resolution, task.classes)
    manifest = VariantManifest(
        id=variant_id(alpha, resolution, precision),
        task=task.name,
        alpha=alpha,
        resolution=resolution,
        precision=precision,
        mult_adds=spec.mult_adds,
        parameters=spec.parameters,
        accuracy=accuracy or measured,
        measured=measured,
        origin=Origin(
            format=provenance.format,
            location=provenance.location,
            sha256=provenance.sha256,
            trained_resolution=trained_resolution,
        ),
        licence=provenance.licence,
        sha256=hashlib.sha256(model).hexdigest(),
    )
    store.install(manifest, model)
    return manifest


def _check_runs(model: bytes, resolution: int, classes: int) -> None:
    """A grey picture gives finite scores: a model that cannot run never reaches the store."""
    grey = np.full((1, resolution, resolution, 3), 128, np.uint8)
    scores = OnnxSession(model).run(grey)
    if scores.shape != (1, classes) or not np.isfinite(scores).all():
        raise WeightsError("the network gives scores that are not finite")


def _sha256(path: Path) -> str:
    """Of the file; of a TensorFlow.js model, `model.json` and its shards in the order of their names."""
    files = [path]
    if path.is_dir() or path.suffix == ".json":
        folder = path if path.is_dir() else path.parent
        files = [folder / "model.json", *sorted(folder.glob("*shard*"))]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
