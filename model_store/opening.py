"""A variant of a store, opened for the head of its task, and whether its answers fit the task."""

from collections.abc import Sequence

from model_store import golden
from model_store.manifest import TaskManifest, VariantManifest
from model_store.runtime import ModelUnusable, OnnxDetector, OnnxSession, open_model
from model_store.ssd import SsdSpec
from model_store.store import ModelStore, StoreError


def open_variant(
    store: ModelStore, task: TaskManifest, variant: str, threads: int = 1
) -> tuple[VariantManifest, OnnxSession | OnnxDetector]:
    """Raises VariantCorrupt, or ModelUnusable when it does not run here or does not answer what its task and
    its manifest say; with the variant's name."""
    return Openings(store, task, threads).open(variant)


class Openings:
    """Opens variants of one task. Those whose models are the same file, as the resolutions of one set of
    weights, get the same session: it is in memory once."""

    def __init__(
        self, store: ModelStore, task: TaskManifest, threads: int = 1, cpus: Sequence[int] = ()
    ) -> None:
        """`cpus` as of OnnxSession."""
        self._store, self._task, self._threads, self._cpus = store, task, threads, cpus
        self._sessions: dict[str, OnnxSession | OnnxDetector] = {}  # by their models' sha256

    def open(self, variant: str) -> tuple[VariantManifest, OnnxSession | OnnxDetector]:
        """As `open_variant`."""
        manifest, model = self._store.open(self._task.name, variant)
        try:
            session = self._sessions.get(manifest.sha256)
            if session is None:
                session = open_model(model, self._task.head, self._threads, self._cpus)
            check_fit(session, manifest, self._task)
        except ModelUnusable as error:
            raise ModelUnusable(f"{variant} of {self._task.name}: {error}") from error
        self._sessions[manifest.sha256] = session
        return manifest, session


def check_fit(session: OnnxSession | OnnxDetector, manifest: VariantManifest, task: TaskManifest) -> None:
    """Raises ModelUnusable when what a session takes and answers is not what the two manifests say."""
    if session.resolution not in (None, manifest.resolution):
        raise ModelUnusable(f"{session.resolution} pixels, but {manifest.resolution} in its manifest")
    if isinstance(session, OnnxDetector):
        expected = SsdSpec(manifest.resolution).anchors
        if session.anchors != expected:
            raise ModelUnusable(f"{session.anchors} anchors, but {expected} at {manifest.resolution} pixels")
    elif session.classes != task.classes:
        raise ModelUnusable(f"{session.classes} classes, but {task.classes} labels")


def checked_task(store: ModelStore, name: str) -> TaskManifest:
    """The task's manifest, whose files are as it says. Raises StoreError."""
    task = store.task(name)
    if task.name != name:
        raise StoreError(f"task.json of {name!r} is that of {task.name!r}")
    store.labels(task)
    store.synsets(task)
    return task


def check_variant(store: ModelStore, task: str, variant: str) -> None:
    """Raises StoreError or ModelUnusable when its bytes are wrong, it does not run here, does not fit its
    task, or, as WrongAnswer, does not answer as it did where it was built."""
    manifest = checked_task(store, task)
    found, session = open_variant(store, manifest, variant)
    golden.check(session, manifest.head, found)
