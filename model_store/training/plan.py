"""What is trained for how long: a pure function of the step. Pure."""

import math
from dataclasses import dataclass

import numpy as np

from model_store.architecture import RESOLUTIONS
from model_store.training.split import SEED

BATCH = 64  # half of it CelebA, half UTKFace


@dataclass(frozen=True, slots=True)
class Phase:
    """`steps` batches, each of a resolution drawn by `weights`."""

    steps: int
    weights: dict[int, float]


@dataclass(frozen=True, slots=True)
class Round:
    """Over its phases the learning rate rises to `rate`, in a share `warm_up` of their steps, and falls as a
    cosine to nothing."""

    phases: tuple[Phase, ...]
    rate: float
    warm_up: float = 0.0

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def rate_at(self, step: int) -> float:
        rise = round(self.warm_up * self.steps)
        if step < rise:
            return self.rate * (step + 1) / rise
        return self.rate * (1 + math.cos(math.pi * (step - rise) / (self.steps - rise))) / 2


@dataclass(frozen=True, slots=True)
class Training:
    """Of one alpha, in rounds.

    The first is mostly of small pictures, which are cheap; a network that is trained already goes without.
    Fine-tuning follows, in one round or two, mostly of large ones: without it a network is worst where it
    should be best (Touvron et al., Fixing the train-test resolution discrepancy, 2019).
    """

    alpha: float
    rounds: tuple[Round, ...]
    weight_decay: float
    dropout: float = 0.0
    averaging: float = 0.998  # of the weights' moving average, which is what is kept

    @property
    def steps(self) -> int:
        return sum(each.steps for each in self.rounds)

    def rate(self, step: int) -> float:
        for each in self.rounds:
            if step < each.steps:
                return each.rate_at(step)
            step -= each.steps
        raise ValueError("the training has ended before this step")

    def resolution(self, step: int, seed: int) -> int:
        """The same for the same step, whatever came before."""
        rest = step
        for phase in (phase for each in self.rounds for phase in each.phases):
            if rest < phase.steps:
                break
            rest -= phase.steps
        sizes, weights = zip(*phase.weights.items(), strict=True)
        shares = np.array(weights) / sum(weights)
        return int(np.random.default_rng([seed, 1, step]).choice(sizes, p=shares))


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole grid: a teacher learns from labels, pupils from it too. A pupil as wide as the teacher takes
    its place among what is kept."""

    teacher: Training
    pupils: tuple[Training, ...] = ()
    resolutions: tuple[int, ...] = RESOLUTIONS
    batch: int = BATCH
    validate_every: int = 400  # steps
    validation_pictures: int = 1536  # for the curve; at the end, all
    validation_resolution: int = 160
    statistics_batches: int = 24
    soft_resolutions: tuple[int, ...] = (192, 160)  # at which the teacher answers for the pupils
    checkpoint_every_s: float = 120.0
    seed: int = SEED


def _first(steps: int, rate: float) -> Round:
    """Small pictures first, the mix of all when the learning rate is low."""
    first, second = round(0.55 * steps), round(0.25 * steps)
    phases = (
        Phase(first, {128: 1.0}),
        Phase(second, {128: 0.5, 160: 0.5}),
        Phase(steps - first - second, {128: 0.3, 160: 0.3, 192: 0.2, 224: 0.2}),
    )
    return Round(phases, rate, warm_up=0.06)


def _fine_tuning(steps: int, rate: float) -> Round:
    return Round((Phase(steps, {128: 0.1, 160: 0.2, 192: 0.2, 224: 0.5}),), rate)


def full_grid() -> Plan:
    """What ships, the cheapest pupil first: two cores of Zen 5 take 85 minutes in bfloat16, of Zen 4 two
    and a half hours, or nearly four in float32.

    The weights that ship were made with the last round of alpha 0.75 and of 1.0 as a training of its own.
    """
    even = Round((Phase(560, dict.fromkeys(RESOLUTIONS, 0.25)),), 8e-4)
    teacher = Training(1.0, (_first(2800, 1e-3), _fine_tuning(500, 3e-4)), weight_decay=0.05, dropout=0.2)
    narrower = (
        Training(0.25, (_first(2400, 2e-3), _fine_tuning(400, 5e-4)), weight_decay=1e-3),
        Training(0.5, (_first(1600, 2e-3), _fine_tuning(350, 5e-4)), weight_decay=1e-3),
        # The third round brought 0.75_224 0.3 points and a quarter of a year.
        Training(0.75, (_first(1200, 2e-3), _fine_tuning(300, 5e-4), even), weight_decay=1e-3),
    )
    # The teacher once more: at 224 pixels it learns what it answers itself at those where it is best. The
    # second round brought 1.0_224 0.1 points, 0.1 years and 0.4 points of precision.
    last = Round((Phase(1000, {128: 0.1, 160: 0.12, 192: 0.18, 224: 0.6}),), 3e-4)
    again = Training(1.0, (_fine_tuning(800, 3e-4), last), weight_decay=1e-3)
    return Plan(teacher, (*narrower, again))
