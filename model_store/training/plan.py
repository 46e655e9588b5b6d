"""What is trained for how long: a pure function of the step. Pure."""

import math
from dataclasses import dataclass

import numpy as np

from model_store.architecture import ALPHAS, RESOLUTIONS
from model_store.training.split import SEED

BATCH = 64  # half of it CelebA, half UTKFace


@dataclass(frozen=True, slots=True)
class Phase:
    """`steps` batches, each of a resolution drawn by `weights`."""

    steps: int
    weights: dict[int, float]


@dataclass(frozen=True, slots=True)
class Training:
    """Of one alpha. The learning rate rises over `warm_up` of the phases' steps and falls as a cosine to
    nothing.

    The phases are mostly of small pictures, which are cheap; a network that is trained already may have none.
    Then comes `fine_tuning`, mostly of large ones, at `fine_tuning_rate` falling in the same way: without it
    a network is worst where it should be best (Touvron et al., Fixing the train-test resolution discrepancy,
    2019).
    """

    alpha: float
    phases: tuple[Phase, ...]
    fine_tuning: Phase
    learning_rate: float
    fine_tuning_rate: float
    weight_decay: float
    dropout: float = 0.0
    warm_up: float = 0.06
    averaging: float = 0.998  # of the weights' moving average, which is what is kept

    @property
    def steps(self) -> int:
        return self._first_steps + self.fine_tuning.steps

    @property
    def _first_steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def rate(self, step: int) -> float:
        first = self._first_steps
        if step >= first:
            return _fallen(self.fine_tuning_rate, (step - first) / self.fine_tuning.steps)
        rise = max(1, round(self.warm_up * first))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return _fallen(self.learning_rate, (step - rise) / (first - rise))

    def resolution(self, step: int, seed: int) -> int:
        """The same for the same step, whatever came before."""
        rest = step
        for phase in (*self.phases, self.fine_tuning):
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


def _fallen(rate: float, share: float) -> float:
    return rate * (1 + math.cos(math.pi * share)) / 2


def _phases(steps: int) -> tuple[Phase, ...]:
    """Small pictures first, the mix of all when the learning rate is low."""
    first, second = round(0.55 * steps), round(0.25 * steps)
    return (
        Phase(first, {128: 1.0}),
        Phase(second, {128: 0.5, 160: 0.5}),
        Phase(steps - first - second, {128: 0.3, 160: 0.3, 192: 0.2, 224: 0.2}),
    )


def _fine_tuning(steps: int) -> Phase:
    return Phase(steps, {128: 0.1, 160: 0.2, 192: 0.2, 224: 0.5})


def full_grid() -> Plan:
    """What ships, the cheapest pupil first: by its steps and the fitting of the heads nearly four hours of
    two cores in float32, and two and a third in bfloat16."""
    steps = {0.25: (2400, 400), 0.5: (1600, 350), 0.75: (1200, 300)}
    teacher = Training(
        ALPHAS[0],
        _phases(2800),
        _fine_tuning(500),
        1e-3,
        fine_tuning_rate=3e-4,
        weight_decay=0.05,
        dropout=0.2,
    )
    narrower = (
        Training(alpha, _phases(first), _fine_tuning(last), 2e-3, fine_tuning_rate=5e-4, weight_decay=1e-3)
        for alpha, (first, last) in steps.items()
    )
    # The teacher once more: at 224 pixels it learns what it answers itself at those where it is best. The
    # rate falls twice; the second time brought 1.0_224 0.1 points, 0.1 years and 0.4 points of precision.
    last = Phase(1000, {128: 0.1, 160: 0.12, 192: 0.18, 224: 0.6})
    again = Training(
        ALPHAS[0],
        (_fine_tuning(800),),
        last,
        3e-4,
        fine_tuning_rate=3e-4,
        weight_decay=1e-3,
        warm_up=0.0,
    )
    return Plan(teacher, (*narrower, again))
