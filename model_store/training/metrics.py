"""How good answers are, over labelled pictures. Pure."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store.faces import ATTRIBUTES, age_of, mean_age, split_scores

Floats = npt.NDArray[np.float32]
OLDEST = 90  # ages above are too few to count
_DRAWS = 200


@dataclass(frozen=True, slots=True)
class FaceMetrics:
    """`_half` figures are half the 95 % interval, as pictures are drawn by chance.

    Accuracies are fractions at the threshold 0.5; `age_in_interval` is the share of ages that lie between the
    `low` and `high` that are answered.
    """

    mean_accuracy: float
    mean_accuracy_half: float
    mean_average_precision: float
    mean_average_precision_half: float
    age_error_years: float
    age_error_half: float
    age_in_interval: float
    attribute_pictures: int
    age_pictures: int
    accuracy: dict[str, float]
    average_precision: dict[str, float]
    average_precision_half: dict[str, float]
    majority: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(scores: Floats, attributes: Floats, ages: Floats) -> FaceMetrics:
    """Of `scores` [N, outputs] against labels [N, 40] and [N], NaN where missing."""
    answers, distribution = split_scores(scores)
    known = ~np.isnan(attributes).any(axis=1)
    answers, truth = answers[known], attributes[known] > 0.5
    right = (answers > 0.5) == truth
    precision = _precisions(answers, truth)
    drawn = _drawn_precisions(answers, truth)
    positive = truth.mean(axis=0)
    of_age = ages <= OLDEST  # False for NaN
    off = np.abs(mean_age(distribution[of_age]) - ages[of_age])
    return FaceMetrics(
        mean_accuracy=float(right.mean()),
        mean_accuracy_half=_half(right.mean(axis=1)),
        mean_average_precision=float(np.nanmean(precision)),
        mean_average_precision_half=float(1.96 * drawn.mean(axis=1).std()),
        age_error_years=float(off.mean()),
        age_error_half=_half(off),
        age_in_interval=_in_interval(distribution[of_age], ages[of_age]),
        attribute_pictures=int(known.sum()),
        age_pictures=int(of_age.sum()),
        accuracy=_named(right.mean(axis=0)),
        average_precision=_named(precision),
        average_precision_half=_named((1.96 * drawn.std(axis=0)).filled(np.nan)),
        majority=_named(np.maximum(positive, 1 - positive)),
    )


def average_precision(answers: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """The mean precision at each positive picture, by falling score; NaN without positives."""
    if not truth.any():
        return float("nan")
    found = truth[np.argsort(-answers, kind="stable")]
    precision = np.cumsum(found) / np.arange(1, len(found) + 1)
    return float(precision[found].mean())


def _precisions(answers: Floats, truth: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """[attributes]."""
    return np.array([average_precision(answers[:, k], truth[:, k]) for k in range(answers.shape[1])])


def _drawn_precisions(
    answers: Floats, truth: npt.NDArray[np.bool_]
) -> "np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]":
    """[draws, attributes]: of as many pictures, drawn with replacement (the bootstrap); masked where none is
    positive."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(truth), size=len(truth)) for _ in range(_DRAWS))
    return np.ma.masked_invalid([_precisions(answers[rows], truth[rows]) for rows in draws])


def _in_interval(distribution: Floats, ages: Floats) -> float:
    found = [age_of(row) for row in distribution]
    return float(np.mean([f.low <= age <= f.high for f, age in zip(found, ages, strict=True)]))


def _half(values: npt.NDArray[np.floating]) -> float:
    """Half the 95 % interval of the mean of `values`, one a picture (normal approximation)."""
    return float(1.96 * values.std() / np.sqrt(len(values)))


def _named(values: Any) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(ATTRIBUTES, values, strict=True)}
