"""A training of seconds on drawn faces, as a process of its own: `python -m ... tiny_run DATA WORK`.

`make_data` writes what it reads.
"""

import csv
import sys
import zipfile
from pathlib import Path

import numpy as np

from model_store.faces import ATTRIBUTES
from tests.model_store.picture_files import save
from tests.model_store.training.networks import random_weights

PICTURES = 40


def make_data(folder: Path) -> None:
    """Both data sets, small: pictures of noise over a tint that goes with the first attribute and the age."""
    from PIL import Image

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)

    def picture(width: int, height: int, tint: float) -> bytes:
        pixels = rng.normal(60 + 130 * tint, 40, (height // 8 + 1, width // 8 + 1, 3)).clip(0, 255)
        return save(Image.fromarray(pixels.astype(np.uint8)).resize((width, height)), "JPEG", quality=90)

    with (folder / "celeba_attributes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", *ATTRIBUTES])
        with zipfile.ZipFile(folder / "celeba.zip", "w") as archive:
            for i in range(PICTURES):
                tinted = int(rng.integers(2))
                writer.writerow([f"{i:06}.jpg", tinted, *rng.integers(0, 2, 39)])
                archive.writestr(f"{i:06}.jpg", picture(89, 109, tinted))
    with zipfile.ZipFile(folder / "utkface.zip", "w") as archive:
        for i in range(PICTURES):
            age = int(rng.integers(1, 100))
            archive.writestr(f"{age}_0_0_{i}.jpg.chip.jpg", picture(200, 200, age / 100))


def main(data: Path, work: Path) -> None:
    from model_store.training.grid import train_faces
    from model_store.training.plan import Phase, Plan, Round, Training

    first = Round((Phase(3, {32: 1.0}), Phase(3, {32: 0.5, 64: 0.5})), 1e-3, warm_up=0.2)
    fine_tuning = Round((Phase(2, {64: 1.0}),), 3e-4)
    teacher = Training(0.5, (first, fine_tuning), weight_decay=0.05, dropout=0.2)
    short = Round((Phase(4, {32: 1.0}),), 2e-3)
    pupil = Training(0.25, (short, Round((Phase(2, {64: 1.0}),), 5e-4)), weight_decay=1e-3)
    again = Training(0.5, (fine_tuning,), weight_decay=0.05)
    plan = Plan(
        teacher,
        (pupil, again),
        resolutions=(64, 32),
        batch=8,
        validate_every=3,
        validation_pictures=8,
        validation_resolution=32,
        statistics_batches=2,
        soft_resolutions=(32, 64),
        checkpoint_every_s=0,
    )
    train_faces(plan, data, work, {0.5: random_weights(0.5, classes=1000)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
