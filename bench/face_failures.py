"""When the face networks fail, and for whom: `python -m bench.face_failures --store DIR --images DIR`.

One network on pictures that were kept for validation, as they are and made harder, and the error of the age
by what UTKFace's labels say of the person. Writes the tables into the model card, docs/face-networks.md.
DIR is what training reads: celeba.zip, celeba_attributes.csv and utkface.zip.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from bench.compositions import as_png, read_upright
from bench.face_card import write_section
from model_store.faces import mean_age, split_scores
from model_store.imaging import decode
from model_store.manifest import Preprocessing
from model_store.opening import open_variant
from model_store.progress import track
from model_store.runtime import OnnxSession
from model_store.store import ModelStore
from model_store.training.metrics import FaceMetrics, measure
from model_store.training.pictures import LabelledFace, validation_files
from model_store.training.split import SEED

_PICTURES = 800  # of each data set, for each way of making them harder
_BATCH = 16
_COVER = (173, 200, 216)  # a surgical mask's blue
_BANDS = ((1, 5), (6, 15), (16, 25), (26, 40), (41, 60), (61, 90))
# age_gender_race_date: read here alone, to see whom the error falls on. No network answers them.
_UTKFACE = re.compile(r"(?:.*/)?\d+_(?P<gender>[01])_(?P<race>[0-4])_")
_GENDERS = ("male", "female")
_RACES = ("White", "Black", "Asian", "Indian", "others")

Change = Callable[[Image.Image], Image.Image]
Floats = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--variant", default="mobilenet_v1_1.0_160_fp32")
    options = parser.parse_args()
    store = ModelStore(options.store)
    task = store.task("faces")
    manifest, session = open_variant(store, task, options.variant)
    network = Network(cast(OnnxSession, session), manifest.resolution, task.preprocessing)
    pictures = validation_files(options.images, SEED)
    celeba = [p for p in pictures if np.isnan(p.age)]
    utkface = [p for p in pictures if not np.isnan(p.age)]
    rows = []
    for name, change in CONDITIONS.items():
        rows.append((name, network.measure([*celeba[:_PICTURES], *utkface[:_PICTURES]], name, change)))
    scores = network.answers(utkface, "ages", lambda image: image)
    tables = [*_conditions(manifest.id, rows), "", *_groups(utkface, scores), ""]
    write_section("bench.face_failures", "\n".join(tables))


class Network:
    """One variant, asked as it is when it serves."""

    def __init__(self, session: OnnxSession, resolution: int, preprocessing: Preprocessing) -> None:
        self._session = session
        self._resolution = resolution
        self._preprocessing = preprocessing

    def answers(self, pictures: list[LabelledFace], title: str, change: Change) -> Floats:
        """[N, outputs] for the pictures as `change` makes them."""
        found = []
        with track(title, len(pictures), unit="pictures") as tracker:
            for start in range(0, len(pictures), _BATCH):
                batch = [self._pixels(p, change) for p in pictures[start : start + _BATCH]]
                found.append(self._session.run(np.stack(batch)))
                tracker.update(start + len(batch))
        return np.concatenate(found)

    def measure(self, pictures: list[LabelledFace], title: str, change: Change) -> FaceMetrics:
        ages = np.array([p.age for p in pictures], np.float32)
        return measure(
            self.answers(pictures, title, change), np.stack([p.attributes for p in pictures]), ages
        )

    def _pixels(self, picture: LabelledFace, change: Change) -> npt.NDArray[np.uint8]:
        changed = as_png(np.asarray(change(read_upright(picture.data))))
        return decode(changed, self._resolution, self._preprocessing)


def _turned(degrees: float) -> Change:
    """In its plane; what the corners show then is the picture's edge colour."""
    return lambda image: image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=image.getpixel((0, 0)))


def _reduced(height: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        small = image.resize(
            (max(1, round(image.width * height / image.height)), height), Image.Resampling.BOX
        )
        return small.resize(image.size, Image.Resampling.BICUBIC)

    return change


def _covered(top: float, bottom: float) -> Change:
    """A band of the picture's height, from side to side."""

    def change(image: Image.Image) -> Image.Image:
        image = image.copy()
        image.paste(_COVER, (0, round(top * image.height), image.width, round(bottom * image.height)))
        return image

    return change


CONDITIONS: dict[str, Change] = {
    "as they are": lambda image: image,
    "in grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "a third as bright": lambda image: ImageEnhance.Brightness(image).enhance(1 / 3),
    "32 pixels high": _reduced(32),
    "20 pixels high": _reduced(20),
    "turned by 15 degrees": _turned(15),
    "turned by 30 degrees": _turned(30),
    "turned by 90 degrees": _turned(90),
    "eyes covered": _covered(0.35, 0.55),
    "mouth covered": _covered(0.6, 0.9),
}


def _conditions(variant: str, rows: list[tuple[str, FaceMetrics]]) -> list[str]:
    of = rows[0][1]
    return [
        f"`{variant}` on {of.attribute_pictures} pictures of CelebA and {of.age_pictures} of UTKFace:",
        "",
        "| pictures | accuracy | average precision | age error |",
        "|---|---|---|---|",
        *(
            f"| {name} | {100 * m.mean_accuracy:.1f} | {100 * m.mean_average_precision:.1f} | "
            f"{m.age_error_years:.1f} |"
            for name, m in rows
        ),
    ]


def _groups(pictures: list[LabelledFace], scores: Floats) -> list[str]:
    """Mean error of the age, and in which direction, by the labels of UTKFace."""
    ages = np.array([p.age for p in pictures])
    labels = [_UTKFACE.match(p.name) for p in pictures]
    genders = np.array([int(m["gender"]) if m else -1 for m in labels])
    races = np.array([int(m["race"]) if m else -1 for m in labels])
    groups = {f"{low} to {high} years": (ages >= low) & (ages <= high) for low, high in _BANDS}
    groups |= {name: genders == k for k, name in enumerate(_GENDERS)}
    groups |= {name: races == k for k, name in enumerate(_RACES)}
    off = mean_age(split_scores(scores)[1]) - ages
    lines = ["| UTKFace's label | pictures | age error | older than labelled by |", "|---|---|---|---|"]
    for name, chosen in groups.items():
        mine = off[chosen & (ages <= _BANDS[-1][1])]
        half = 1.96 * np.abs(mine).std() / np.sqrt(len(mine))
        lines.append(
            f"| {name} | {len(mine)} | {np.abs(mine).mean():.1f} ± {half:.1f} | {mine.mean():+.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
