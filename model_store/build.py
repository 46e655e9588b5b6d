"""The one way into the store: weights -> graph -> checked -> manifest -> installed."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model_store import golden, ssd, trained
from model_store.architecture import RESOLUTIONS
from model_store.calibration import drawn_pictures
from model_store.graph import build_classifier, read_classifier
from model_store.importers import frozen_graph, keras_h5, onnx_model, tfjs, tflite, tflite_quantized
from model_store.manifest import (
    AnyAccuracy,
    DetectionAccuracy,
    Head,
    Origin,
    Precision,
    QuantizedFrom,
    TaskManifest,
    VariantManifest,
    VariantShape,
)
from model_store.quantize import METHOD, quantize
from model_store.quantized import QuantizedNetwork
from model_store.quantized_graph import build_quantized_classifier
from model_store.runtime import open_model
from model_store.ssd_graph import build_detector, build_quantized_detector, read_detector
from model_store.ssd_quantize import quantize_detector
from model_store.ssd_weights import DetectorWeights
from model_store.store import ModelStore, StoredVariant
from model_store.trained import TrainedNetwork
from model_store.weights import NetworkWeights, WeightsError

_WEIGHTS_LOADERS: dict[str, tuple[str, Callable[[Path], NetworkWeights]]] = {
    ".pb": ("frozen GraphDef", frozen_graph.load),
    ".tflite": ("TensorFlow Lite", tflite.load),
    ".json": ("TensorFlow.js", tfjs.load),
    ".h5": ("Keras HDF5", keras_h5.load),
    ".hdf5": ("Keras HDF5", keras_h5.load),
}
CALIBRATION_PICTURES, CALIBRATION_RESOLUTION = 8, 160
TRAINED_FORMAT = "trained here"
FORMATS = ".pb, .tflite, .h5, .hdf5, model.json (TensorFlow.js) or its folder, .onnx, .npz (trained here)"


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


def load_quantized(path: Path) -> QuantizedNetwork | None:
    """The integers of a fully quantised file; None where it is of another kind. Raises WeightsError."""
    return tflite_quantized.load(path) if path.suffix.lower() == ".tflite" else None


def load_network(path: Path, *, dequantize: bool = False) -> tuple[str, NetworkWeights | QuantizedNetwork]:
    """(format, network) of a file as it is, or, where `dequantize` is set, the weights that it stands for.
    Raises WeightsError."""
    quantized = None if dequantize else load_quantized(path)
    return load_weights(path) if quantized is None else ("TensorFlow Lite", quantized)


def install_network(
    store: ModelStore,
    task: TaskManifest,
    network: NetworkWeights | QuantizedNetwork,
    provenance: Provenance,
    *,
    resolution: int | None = None,
    accuracy: AnyAccuracy | None = None,
    measured: AnyAccuracy | None = None,
) -> VariantManifest:
    """Builds and installs one variant, int8 where the network came quantised; `resolution` is the trained
    one unless given.

    Raises WeightsError when the network does not fit the task, or the resolution is unknown.
    """
    resolution = _checked_resolution(resolution or network.trained_resolution)
    if network.classes != task.classes:
        raise WeightsError(f"{network.classes} classes, but {task.name} has {task.classes}")
    precision: Precision
    if isinstance(network, QuantizedNetwork):
        precision, model = "int8", build_quantized_classifier(network, task.head)
    else:
        precision, model = "fp32", build_classifier(network, task.head)
    shape = VariantShape(network.alpha, resolution, precision)
    return _install(
        store, task, model, shape, provenance,
        trained_resolution=network.trained_resolution, accuracy=accuracy, measured=measured,
    )  # fmt: skip


def install_detector(
    store: ModelStore,
    task: TaskManifest,
    weights: DetectorWeights,
    provenance: Provenance,
    *,
    resolution: int,
    measured: DetectionAccuracy | None = None,
) -> VariantManifest:
    """Builds and installs a detector for one input size. Raises WeightsError."""
    shape = VariantShape(ssd.ALPHA, resolution, "fp32", task.family)
    model = build_detector(weights, resolution)
    return _install(
        store, task, model, shape, provenance,
        trained_resolution=ssd.TRAINED_RESOLUTION, measured=measured,
    )  # fmt: skip


def install_trained(
    store: ModelStore,
    task: TaskManifest,
    network: TrainedNetwork,
    provenance: Provenance,
    *,
    measured: Mapping[int, AnyAccuracy],
) -> list[VariantManifest]:
    """Builds and installs the fp32 variant of each resolution, with what was `measured` of it."""
    return [
        install_network(store, task, network.at(resolution), provenance, measured=measured.get(resolution))
        for resolution in network.resolutions
    ]


def install_file(
    store: ModelStore,
    task: TaskManifest,
    path: Path,
    *,
    resolution: int | None,
    location: str,
    licence: str,
    dequantize: bool = False,
) -> VariantManifest:
    """Imports a weights file or a finished ONNX model. Raises WeightsError.

    A quantised TensorFlow Lite file becomes an int8 variant with its own ranges, or the fp32 one that its
    weights stand for where `dequantize` is set.
    """
    if task.head == "detection":
        raise WeightsError(f"{task.name} has no files to import; `model-store pull` fetches what there is")
    if path.suffix.lower() == ".onnx":
        found = onnx_model.load(path, task.classes, resolution)
        provenance = Provenance("ONNX", location, _sha256(path), licence)
        precision: Precision = "int8" if found.quantized else "fp32"
        shape = VariantShape(found.alpha, found.resolution, precision)
        return _install(store, task, found.model, shape, provenance, trained_resolution=None)
    network: NetworkWeights | QuantizedNetwork
    if path.suffix.lower() == ".npz":
        format, network = TRAINED_FORMAT, trained.load(path).at(resolution or RESOLUTIONS[0])
    else:
        format, network = load_network(path, dequantize=dequantize)
    provenance = Provenance(format, location, _sha256(path), licence)
    return install_network(store, task, network, provenance, resolution=resolution)


def float_variants(store: ModelStore, task: str) -> list[str]:
    """Sound fp32 variants whose int8 twin is absent, refused or was made here.

    An int8 variant of other origin, as the official quantised checkpoints, is never replaced unasked.
    """
    found = {v.id: v.manifest for v in store.variants(task) if v.manifest}
    chosen = []
    for manifest in found.values():
        twin = found.get(_int8_twin(manifest))
        if manifest.precision == "fp32" and (twin is None or twin.quantized_from is not None):
            chosen.append(manifest.id)
    return chosen


def refused_twins(store: ModelStore, task: str) -> dict[str, StoredVariant]:
    """By the fp32 variants that they are of: int8 ones of which no manifest tells if they were made here."""
    refused = {v.id: v for v in store.variants(task) if v.manifest is None}
    sound = [v.manifest for v in store.variants(task) if v.manifest]
    twins = {m.id: refused.get(_int8_twin(m)) for m in sound if m.precision == "fp32"}
    return {id: twin for id, twin in twins.items() if twin}


def quantize_variant(
    store: ModelStore, task: TaskManifest, variant: str, *, measured: AnyAccuracy | None = None
) -> VariantManifest:
    """Makes and installs the int8 twin of a stored fp32 variant. Raises StoreError or WeightsError.

    `measured` is what the twin's accuracy is known to be. That of an installed twin is kept when it comes
    out the same.
    """
    source, model = store.open(task.name, variant)
    if source.precision != "fp32":
        raise WeightsError(f"{variant} is {source.precision} already; only fp32 variants can be quantised")
    try:
        quantized = _quantized(model, source, task.head)
    except WeightsError as error:
        raise WeightsError(f"{variant} cannot be quantised: {error}") from error
    answers = _answers(quantized, task, source.resolution)
    digest = hashlib.sha256(quantized).hexdigest()
    made_from = QuantizedFrom(
        variant=source.id, sha256=source.sha256, accuracy=source.accuracy, method=METHOD
    )
    twin = _int8_twin(source)
    known = next((v.manifest for v in store.variants(task.name) if v.id == twin), None)
    if measured is None and known is not None and known.sha256 == digest:
        measured = known.measured
    changes = {
        "id": twin, "precision": "int8", "accuracy": measured, "measured": measured,
        "quantized_from": made_from, "sha256": digest, "golden": answers,
    }  # fmt: skip
    manifest = VariantManifest.model_validate({**dict(source), **changes})
    store.install(manifest, quantized)
    return manifest


def _int8_twin(manifest: VariantManifest) -> str:
    return manifest.shape._replace(precision="int8").id


def _quantized(model: bytes, source: VariantManifest, head: Head) -> bytes:
    if head == "detection":
        size = source.resolution
        # The larger, the fewer: what counts is how many places of a map are seen.
        count = max(1, round(CALIBRATION_PICTURES * min(1.0, (224 / size) ** 2)))
        network = quantize_detector(read_detector(model), drawn_pictures(count, size))
        return build_quantized_detector(network, size)
    # Weights that serve several resolutions give one file for all of them, whose session they share. Those of
    # attributes are of one each.
    size = CALIBRATION_RESOLUTION if head == "classification" else source.resolution
    pictures = drawn_pictures(CALIBRATION_PICTURES, size)
    return build_quantized_classifier(quantize(read_classifier(model), pictures), head)


def _install(
    store: ModelStore,
    task: TaskManifest,
    model: bytes,
    shape: VariantShape,
    provenance: Provenance,
    *,
    trained_resolution: int | None,
    accuracy: AnyAccuracy | None = None,
    measured: AnyAccuracy | None = None,
) -> VariantManifest:
    spec = shape.spec(task.classes)
    manifest = VariantManifest(
        id=shape.id,
        task=task.name,
        alpha=shape.alpha,
        resolution=shape.resolution,
        precision=shape.precision,
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
        golden=_answers(model, task, shape.resolution),
    )
    store.install(manifest, model)
    return manifest


def _checked_resolution(resolution: int | None) -> int:
    if resolution not in RESOLUTIONS:
        wanted = ", ".join(str(r) for r in RESOLUTIONS)
        raise WeightsError(f"the resolution {resolution} is not one of {wanted}; choose one")
    return resolution


def _answers(model: bytes, task: TaskManifest, resolution: int) -> dict[str, str]:
    """To the golden pictures. Raises WeightsError for what is no answer: it never reaches the store."""
    try:
        return golden.answers(open_model(model, task.head), task.head, resolution)
    except golden.WrongAnswer as error:
        raise WeightsError(f"the network cannot be used: {error}") from error


def _sha256(path: Path) -> str:
    """Of the file; of a TensorFlow.js model, its JSON and its shards in the order of their names."""
    files = tfjs.files(path) if path.is_dir() or path.suffix.lower() == ".json" else [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
