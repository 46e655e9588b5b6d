"""The ways to answer about the faces of a photo: a detector, and a network for what it finds."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.catalog import LoadedDetector, LoadedVariant, TaskCatalog
from service.residency import OnDemand, on_demand

_REMEMBERED = 64  # photos, whose faces tell how many the next one will have


@dataclass(frozen=True, slots=True, eq=False)
class FacePlan:
    """`accuracy` is the share of all attributes of all faces that are answered, and right. `needs` is what
    has to be brought into memory for it."""

    detector: LoadedDetector
    variant: LoadedVariant
    needs: tuple[OnDemand[object], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", on_demand(self.detector.session, self.variant.session))

    @property
    def key(self) -> str:
        """Names what is learned of the two together."""
        return f"{self.detector.key}+{self.variant.key}"

    @property
    def accuracy(self) -> float:
        return self.detector.recall * self.variant.top1


class FacePlans:
    """Of one store: the plans of which none is as accurate as another that takes less, best first.

    `inference_ms` are the device's, by key.
    """

    def __init__(
        self,
        task: TaskCatalog,
        detectors: Sequence[LoadedDetector],
        inference_ms: Mapping[str, float],
    ) -> None:
        self.task, self._detectors = task, detectors
        plans = [FacePlan(d, v) for d in detectors for v in task.variants]
        self.plans = _frontier(plans, inference_ms)
        self._seen: deque[int] = deque([1], maxlen=_REMEMBERED)

    def pinned(self, variant: LoadedVariant) -> FacePlan:
        """The variant on what the best detector finds."""
        return FacePlan(self._detectors[0], variant)

    def expected_faces(self, max_faces: int) -> int:
        """How many a photo is planned for: the mean of the latest ones, and one at least."""
        seen = list(self._seen)
        return min(max_faces, max(1, math.ceil(sum(seen) / len(seen))))

    def saw(self, faces: int) -> None:
        """A photo had so many."""
        self._seen.append(faces)


def _frontier(plans: list[FacePlan], inference_ms: Mapping[str, float]) -> tuple[FacePlan, ...]:
    """For one face; the cheaper of equals."""

    def work_ms(plan: FacePlan) -> float:
        return inference_ms[plan.detector.key] + inference_ms[plan.variant.key]

    kept: list[FacePlan] = []
    for plan in sorted(plans, key=lambda p: (work_ms(p), -p.accuracy)):
        if not kept or plan.accuracy > kept[-1].accuracy:
            kept.append(plan)
    return tuple(reversed(kept))
