"""`model-store pull`: official weights from where they are published, or from the package index.

A checksum is recorded when an archive is first fetched, in `checksums.json` of the store, and enforced
from then on: whoever changes the archive afterwards is found out.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model_store import atomic, build, package_index, tasks
from model_store.download import DownloadError, Unreachable, fetch, read_member
from model_store.manifest import Accuracy, TaskManifest, VariantManifest
from model_store.progress import track
from model_store.quantized import QuantizedNetwork
from model_store.sources import (
    CHECKPOINTS_BY_NAME,
    FALLBACK_SOURCE,
    OFFICIAL_LICENCE,
    OFFICIAL_RELEASE,
    PUBLISHED_DATASET,
    Checkpoint,
    IndexSource,
)
from model_store.store import ModelStore

FALLBACK_CHECKPOINT = "1.0_224"  # whose weights the package index has
_MAX_MEMBER_BYTES = 64 << 20  # the largest frozen graph of the family has 17 MB

_WITHOUT_NAMES = (
    f"`model-store pull imagenet`, without naming checkpoints, takes those of {FALLBACK_CHECKPOINT} from the "
    "package index"
)
_EASIER_SUBSET = "510 labelled ImageNet validation pictures"
# The fallback's accuracy by resolution, measured with `model-store evaluate`.
_FALLBACK_MEASURED: dict[int, tuple[float, float]] = {
    224: (0.8000, 0.9275),
    192: (0.8020, 0.9314),
    160: (0.7431, 0.9275),
    128: (0.6667, 0.8843),
}
# The same weights after `model-store quantize`.
_FALLBACK_MEASURED_INT8: dict[int, tuple[float, float]] = {
    224: (0.8078, 0.9314),
    192: (0.7980, 0.9294),
    160: (0.7412, 0.9235),
    128: (0.6588, 0.8784),
}


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull installed, and whether it had to take the package index's copy."""

    variants: tuple[VariantManifest, ...]
    fallback: bool


def pull_official(
    store: ModelStore,
    checkpoints: list[Checkpoint],
    *,
    base_url: str,
    say: Callable[[str], None],
    fallback: bool = True,
) -> Pulled:
    """Installs official checkpoints; where their address does not answer, the fallback, if that will do.

    Raises DownloadError, WeightsError or StoreError. Variants already installed stay installed.
    """
    task = tasks.ensure_task(store, "imagenet")
    installed = []
    with downloads(store) as folder:
        for checkpoint in checkpoints:
            say(f"{checkpoint.name}: fetching {checkpoint.url(base_url)}")
            try:
                manifest = _pull_checkpoint(store, task, checkpoint, base_url, folder)
                installed += _with_int8(store, task, manifest)
            except Unreachable as error:
                if not fallback:
                    raise Unreachable(f"{error}. {_WITHOUT_NAMES}") from error
                say(f"{error}.")
                if installed:
                    raise
                say(
                    f"Taking the official 1.0_224 weights from the package index instead "
                    f"({FALLBACK_SOURCE.filename}; none of its code is run)."
                )
                return Pulled(tuple(_pull_fallback(store, task, FALLBACK_SOURCE, folder)), True)
    return Pulled(tuple(installed), False)


def _pull_checkpoint(
    store: ModelStore, task: TaskManifest, checkpoint: Checkpoint, base_url: str, folder: Path
) -> VariantManifest:
    archive = folder / checkpoint.archive
    url = checkpoint.url(base_url)
    if not archive.exists():
        with track(checkpoint.archive, None, unit="bytes") as tracker:
            fetch(url, archive, tracker=tracker)
    checksums = _Checksums(store.root / "checksums.json")
    name = f"{OFFICIAL_RELEASE}/{checkpoint.archive}"
    try:
        digest = checksums.check(name, archive)
        member = folder / f"{checkpoint.name}{checkpoint.member_suffix}"
        wanted = checkpoint.member_suffix
        member.write_bytes(read_member(archive, lambda n: n.endswith(wanted), _MAX_MEMBER_BYTES))
        manifest = _install_checkpoint(store, task, checkpoint, member, url, digest)
    finally:
        archive.unlink(missing_ok=True)  # a bad one must not be met again
    checksums.record(name, digest)
    return manifest


def _install_checkpoint(
    store: ModelStore, task: TaskManifest, checkpoint: Checkpoint, member: Path, url: str, digest: str
) -> VariantManifest:
    format, network = build.load_network(member)
    if checkpoint.quantized and not isinstance(network, QuantizedNetwork):
        raise DownloadError(f"the archive of {checkpoint.name} holds no quantised network")
    _check_shape(checkpoint, network.alpha, network.trained_resolution)
    return build.install_network(
        store, task, network, build.Provenance(format, url, digest, OFFICIAL_LICENCE),
        resolution=checkpoint.resolution, accuracy=published_accuracy(checkpoint),
    )  # fmt: skip


def _with_int8(
    store: ModelStore, task: TaskManifest, manifest: VariantManifest, measured: Accuracy | None = None
) -> list[VariantManifest]:
    """A float variant and its int8 twin, unless that is of other origin."""
    if manifest.id not in build.float_variants(store, task.name):
        return [manifest]
    return [manifest, build.quantize_variant(store, task, manifest.id, measured=measured)]


def _pull_fallback(
    store: ModelStore, task: TaskManifest, source: IndexSource, folder: Path
) -> Iterator[VariantManifest]:
    """1.0 at its trained resolution and at the lower ones, which were measured, not trained."""
    archive = folder / source.filename
    with track(source.filename, None, unit="bytes") as tracker:
        host = package_index.fetch_archive(source.project, source.filename, archive, tracker=tracker)
    try:
        digest = sha256_of(archive)
        if digest != source.sha256:
            raise DownloadError(
                f"{source.filename} from {host} has sha256 {digest}, expected {source.sha256}; "
                "nothing was installed"
            )
        graph = folder / "fallback.pb"
        graph.write_bytes(read_member(archive, source.member.__eq__, _MAX_MEMBER_BYTES))
    finally:
        archive.unlink(missing_ok=True)
    format, weights = build.load_weights(graph)
    location = f"{source.filename}:{source.member}"
    provenance = build.Provenance(format, location, source.sha256, source.licence)
    for resolution in _FALLBACK_MEASURED:
        below = resolution < source.trained_resolution
        trained = source.trained_resolution
        note = "easier than the full set"
        note += f"; evaluated below its training resolution of {trained}" * below
        measured, measured_int8 = (
            Accuracy(top1=top1, top5=top5, source="measured", dataset=_EASIER_SUBSET, pictures=510, note=note)
            for top1, top5 in (_FALLBACK_MEASURED[resolution], _FALLBACK_MEASURED_INT8[resolution])
        )
        published = published_accuracy(CHECKPOINTS_BY_NAME[f"{source.alpha}_{resolution}"])
        manifest = build.install_network(
            store,
            task,
            weights,
            provenance,
            resolution=resolution,
            accuracy=None if below else published,
            measured=measured,
        )
        yield from _with_int8(store, task, manifest, measured_int8)


def published_accuracy(checkpoint: Checkpoint) -> Accuracy:
    """The official figures of a checkpoint as fractions."""
    return Accuracy(
        top1=round(checkpoint.top1 / 100, 4),
        top5=round(checkpoint.top5 / 100, 4),
        source="published",
        dataset=PUBLISHED_DATASET,
        pictures=50_000,
    )


def _check_shape(checkpoint: Checkpoint, alpha: float, resolution: int | None) -> None:
    if alpha != checkpoint.alpha or resolution not in (None, checkpoint.resolution):
        raise DownloadError(
            f"the archive of {checkpoint.name} holds a network of alpha {alpha} "
            f"at {resolution} pixels; nothing was installed"
        )


@contextmanager
def downloads(store: ModelStore) -> Iterator[Path]:
    """The store's download folder, for one process at a time: half a file is continued, not doubled."""
    folder = store.root / ".downloads"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            for path in folder.iterdir():
                if path.suffix in (".pb", ".tflite"):
                    path.unlink()


class _Checksums:
    """sha256 of archives by name, trusted on first use."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, name: str, archive: Path) -> str:
        """The archive's sha256. Raises DownloadError when it is not the recorded one."""
        digest, recorded = sha256_of(archive), self._read().get(name)
        if recorded not in (None, digest):
            raise DownloadError(
                f"{name} is not what it was: sha256 {digest}, recorded {recorded}. Nothing was "
                f"installed. If the change is expected, remove its line from {self._path.name}"
            )
        return digest

    def record(self, name: str, digest: str) -> None:
        known = self._read()
        if known.get(name) != digest:
            text = json.dumps({**known, name: digest}, indent=2, sort_keys=True)
            atomic.write(self._path, f"{text}\n".encode())

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self._path.read_text())
            return {str(name): str(digest) for name, digest in known.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:  # no JSON, or no object
            raise DownloadError(f"{self._path.name} of the store cannot be read") from error


def sha256_of(path: Path) -> str:
    """In hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
