"""The tasks that this project knows, with their labels."""

from importlib import resources

from model_store import faces
from model_store.manifest import Preprocessing, TaskManifest
from model_store.store import ModelStore

IMAGENET = TaskManifest(
    name="imagenet",
    title="ImageNet classification (ILSVRC 2012)",
    head="classification",
    classes=1000,
    synsets="synsets.txt",
    licence_notes=(
        "Labels and synsets: WordNet 3.0 licence. Weights: as each variant says. "
        "The ImageNet pictures themselves are for non-commercial research and are not in the store."
    ),
)

# What `faces` looks at first: a task of its own, since its variants answer boxes.
FACE_DETECTION = TaskManifest(
    name="face-detection",
    title="Faces in a photo, as boxes",
    head="detection",
    classes=1,
    preprocessing=Preprocessing(fit="pad"),
    licence_notes="Weights: as each variant says.",
)

# What judges looks or body is answered to those only who ask for it.
_JUDGING = {
    "Attractive", "Big_Lips", "Big_Nose", "Chubby", "Double_Chin", "Narrow_Eyes", "Pale_Skin",
}  # fmt: skip

FACES_LICENCE = "For non-commercial research only, as the data sets that the weights were trained on."
FACES = TaskManifest(
    name="faces",
    title="Attributes and age of a face",
    head="attributes",
    classes=faces.OUTPUTS,
    returned=tuple(name for name in faces.ATTRIBUTES if name not in _JUDGING),
    preprocessing=Preprocessing(central_fraction=1),
    licence_notes=f"Trained here on CelebA and UTKFace. {FACES_LICENCE}",
)

TASKS: dict[str, TaskManifest] = {task.name: task for task in (IMAGENET, FACES, FACE_DETECTION)}


def ensure_task(store: ModelStore, name: str) -> TaskManifest:
    """The task's manifest in the store, written there first if need be. KeyError for unknown names."""
    if name not in store.tasks():
        manifest = TASKS[name]
        synsets = _lines(name, manifest.synsets) if manifest.synsets else None
        store.install_task(manifest, _lines(name, manifest.labels), synsets)
    return store.task(name)


def _lines(task: str, file: str) -> list[str]:
    text = resources.files(__name__).joinpath(task, file).read_text("utf-8")
    return text.splitlines()
