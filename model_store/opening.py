"""A variant of a store, opened for the head of its task, and whether its answers fit the task."""

from model_store.manifest import VariantManifest
from model_store.runtime import ModelUnusable, OnnxDetector, OnnxSession, open_model
from model_store.ssd import SsdSpec
from model_store.store import ModelStore


def open_variant(
    store: ModelStore, task: str, variant: str
) -> tuple[VariantManifest, OnnxSession | OnnxDetector]:
    """Raises VariantCorrupt or ModelUnusable, with the variant's name."""
    manifest, model = store.open(task, variant)
    try:
        return manifest, open_model(model, store.task(task).head)
    except ModelUnusable as error:
        raise ModelUnusable(f"{variant} of {task}: {error}") from error


def check_variant(store: ModelStore, task: str, variant: str) -> None:
    """Raises StoreError or ModelUnusable when its bytes are wrong, it does not run here, or its answers are
    not as many as its task has labels."""
    _, session = open_variant(store, task, variant)
    labels = len(store.labels(store.task(task)))
    if isinstance(session, OnnxDetector):
        expected = SsdSpec(session.resolution).anchors
        if session.anchors != expected:
            found = f"{session.anchors} anchors, but {expected} at {session.resolution} pixels"
            raise ModelUnusable(f"{variant} of {task}: {found}")
    elif session.classes != labels:
        raise ModelUnusable(f"{variant} of {task}: {session.classes} classes, but {labels} labels")
