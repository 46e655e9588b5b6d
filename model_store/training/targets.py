"""What a network should answer: labels, a teacher's answers, or both. Pure.

Losses are linear in their targets: to learn from labels and from a teacher is to learn what lies between.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_store.faces import OUTPUTS, split_scores
from model_store.training.ages import distributions

Floats = npt.NDArray[np.float32]

# Of a target, where there is a label too; the paper (section 4.5) has 1.
TEACHER_SHARE = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """By picture: probabilities of the attributes [N, 40] and the ages [N, 100], and whether each counts
    [N], 0 or 1."""

    attributes: Floats
    attributes_known: Floats
    ages: Floats
    ages_known: Floats

    def of(self, rows: npt.NDArray[np.int64]) -> tuple[Floats, Floats, Floats, Floats]:
        """Those of some pictures, in the order in which `losses.loss` takes them."""
        return self.attributes[rows], self.attributes_known[rows], self.ages[rows], self.ages_known[rows]


def from_labels(attributes: Floats, ages: Floats) -> Targets:
    """Of labels [N, 40] and [N] years, NaN where missing."""
    has_attributes = np.asarray(~np.isnan(attributes).any(axis=1))
    has_age = np.asarray(~np.isnan(ages))
    return Targets(
        np.where(has_attributes[:, np.newaxis], attributes, 0).astype(np.float32),
        has_attributes.astype(np.float32),
        np.where(has_age[:, np.newaxis], distributions(np.where(has_age, ages, 1)), 0).astype(np.float32),
        has_age.astype(np.float32),
    )


def distilled(labels: Targets, scores: Floats, share: float = TEACHER_SHARE) -> Targets:
    """The teacher's `scores` [N, outputs] on all pictures, drawn to the labels where there are some."""
    if scores.shape != (len(labels.ages), OUTPUTS):
        raise ValueError(f"scores of shape {scores.shape} for {len(labels.ages)} pictures")
    attributes, ages = split_scores(scores)
    everywhere = np.ones(len(scores), np.float32)
    return Targets(
        _mixed(attributes, labels.attributes, labels.attributes_known, share),
        everywhere,
        _mixed(ages, labels.ages, labels.ages_known, share),
        everywhere,
    )


def _mixed(soft: Floats, hard: Floats, known: Floats, share: float) -> Floats:
    weight = np.where(known > 0, share, 1)[:, np.newaxis]
    return np.asarray(weight * soft + (1 - weight) * hard, np.float32)
