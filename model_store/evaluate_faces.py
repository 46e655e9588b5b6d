"""Metrics of face networks on pictures kept for validation, through the decoding and runtime that serve."""

from collections.abc import Callable

import numpy as np

from model_store.imaging import ImageError, decode
from model_store.manifest import FaceAccuracy, Preprocessing
from model_store.runtime import Session
from model_store.training.labels import DataError
from model_store.training.metrics import FaceMetrics, measure
from model_store.training.pictures import LabelledFace, validation_files
from model_store.training.split import SEED

__all__ = ["DATASET", "SEED", "accuracy_of", "evaluate", "validation_files"]

DATASET = "CelebA and UTKFace, pictures kept for validation"


def evaluate(
    session: Session,
    resolution: int,
    preprocessing: Preprocessing,
    pictures: list[LabelledFace],
    *,
    on_picture: Callable[[int], None] = lambda done: None,
) -> FaceMetrics:
    """Of one variant; `on_picture` gets how many are done. Raises DataError for one that cannot be read."""
    scores = []
    for picture in pictures:
        try:
            image = decode(picture.data, resolution, preprocessing)
        except ImageError as error:
            raise DataError(f"{picture.name} cannot be read: {error}") from None
        scores.append(session.run(image[np.newaxis])[0])
        on_picture(len(scores))
    attributes = np.stack([picture.attributes for picture in pictures])
    ages = np.array([picture.age for picture in pictures], np.float32)
    return measure(np.stack(scores), attributes, ages)


def accuracy_of(metrics: FaceMetrics, dataset: str = DATASET) -> FaceAccuracy:
    """What the manifest says of `metrics`."""
    return FaceAccuracy(
        mean_accuracy=metrics.mean_accuracy,
        mean_average_precision=metrics.mean_average_precision,
        age_error_years=metrics.age_error_years,
        dataset=dataset,
        pictures=metrics.attribute_pictures + metrics.age_pictures,
    )
