"""What a face network answers: 40 attributes and the age, in the order of its outputs. Pure.

Output k < 40 is the probability of `ATTRIBUTES[k]`, each for itself; those after it are the probabilities
of the ages `AGES`, which sum to 1.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# CelebA's, in its order.
ATTRIBUTES: tuple[str, ...] = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips",
    "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby",
    "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male",
    "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose",
    "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair",
    "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
AGES: tuple[int, ...] = tuple(range(1, 101))
OUTPUTS = len(ATTRIBUTES) + len(AGES)
LABELS: tuple[str, ...] = (*ATTRIBUTES, *(f"age_{years}" for years in AGES))

INTERVAL = 0.8  # the share of the distribution between `low` and `high`

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Age:
    """Years: the mean of the distribution, and the ends of its middle `INTERVAL`."""

    years: float
    low: float
    high: float


def split_scores(scores: Scores) -> tuple[Scores, Scores]:
    """[N, outputs] to attributes [N, 40] and ages [N, 100]."""
    return scores[:, : len(ATTRIBUTES)], scores[:, len(ATTRIBUTES) :]


def mean_age(ages: Scores) -> Scores:
    """[N] years of [N, ages] probabilities."""
    return np.asarray(ages @ np.array(AGES, np.float32), np.float32)


def age_of(ages: Scores) -> Age:
    """Of one face: [ages] probabilities."""
    tail = (1 - INTERVAL) / 2
    cumulative = np.cumsum(ages, dtype=np.float64)
    # A year's probability lies evenly over it, so that the ends are not whole years.
    low, high = np.interp([tail, 1 - tail], np.r_[0, cumulative], np.r_[AGES[0], np.array(AGES) + 1] - 0.5)
    return Age(float(mean_age(ages[np.newaxis])[0]), float(low), float(high))
