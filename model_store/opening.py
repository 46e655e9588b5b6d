"""A variant of a store, opened for the head of its task, and whether its answers fit the task."""

from model_store import golden
from model_store.manifest import TaskManifest, VariantManifest
from model_store.runtime import ModelUnusable, OnnxDetector, OnnxSession, open_model
from model_store.ssd import SsdSpec
from model_store.store import ModelStore


def open_variant(
    store: ModelStore, task: TaskManifest, variant: str, threads: int = 1
) -> tuple[VariantManifest, OnnxSession | OnnxDetector]:
    """Raises VariantCorrupt, or ModelUnusable when it does not run here or does not answer what its task and
    its manifest say; with the variant's name."""
    manifest, model = store.open(task.name, variant)
    try:
        session = open_model(model, task.head, threads)
        _check(session, manifest, task)
    except ModelUnusable as error:
        raise ModelUnusable(f"{variant} of {task.name}: {error}") from error
    return manifest, session


def check_variant(store: ModelStore, task: str, variant: str) -> None:
    """Raises StoreError or ModelUnusable when its bytes are wrong, it does not run here, does not fit its
    task, or, as WrongAnswer, does not answer as it did where it was built."""
    manifest = store.task(task)
    store.labels(manifest)
    found, session = open_variant(store, manifest, variant)
    golden.check(session, manifest.head, found.precision, found.golden)


def _check(session: OnnxSession | OnnxDetector, manifest: VariantManifest, task: TaskManifest) -> None:
    if session.resolution != manifest.resolution:
        raise ModelUnusable(f"{session.resolution} pixels, but {manifest.resolution} in its manifest")
    if isinstance(session, OnnxDetector):
        expected = SsdSpec(session.resolution).anchors
        if session.anchors != expected:
            raise ModelUnusable(f"{session.anchors} anchors, but {expected} at {session.resolution} pixels")
    elif session.classes != task.classes:
        raise ModelUnusable(f"{session.classes} classes, but {task.classes} labels")
