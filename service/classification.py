"""One picture for one network of a task: what `POST /v1/classify` asks of a worker."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from model_store.imaging import ImageError, ImageHeader, Size, UInt8Array, decode_sized
from model_store.runtime import Scores
from service import errors
from service.catalog import LoadedVariant, Plan, TaskCatalog
from service.clock import now_ms
from service.jobs import Assignment
from service.latency import Expected, LatencyEstimates
from service.residency import held, in_memory
from service.work import Ran


class Classified(NamedTuple):
    """Scores [classes], and the (width, height) of the upright picture in pixels."""

    scores: Scores
    size: tuple[int, int]


class Classification:
    """Scores of an encoded picture, by the task's most accurate variant that is in time.

    Of a pinned variant only its own plans need an estimate.
    """

    def __init__(
        self, catalog: TaskCatalog, data: bytes, header: ImageHeader, pinned: LoadedVariant | None = None
    ) -> None:
        self._catalog, self._data, self._header = catalog, data, header
        self.pinned = pinned is not None
        self.plans: Sequence[Plan] = catalog.plans
        self.accuracies: Sequence[float] = catalog.top1
        if pinned is not None:
            self.plans = [plan for plan in catalog.plans if plan.variant is pinned]
            self.accuracies = [pinned.top1] * len(self.plans)

    @property
    def task(self) -> str:
        return self._catalog.manifest.name

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    def expected(self, estimates: LatencyEstimates) -> list[Expected]:
        return estimates.expected(self.plans, self._header, self._catalog.manifest.preprocessing)

    def run(self, assignment: Assignment) -> Ran[Classified]:
        """Raises UnreadableImage, or NotReady where the variant cannot be loaded any more."""
        found = _run([self], assignment)
        if isinstance(found[0], errors.Problem):
            # It will know this frame: were it known here, the picture would stay until the garbage collector
            # comes by.
            raise cast(errors.Problem, found.pop())
        return found[0]

    def run_with(
        self, second: "Classification", assignment: Assignment
    ) -> list[Ran[Classified] | errors.Problem]:
        """Both have the time of both. One that cannot be read leaves the other alone."""
        return _run([self, second], assignment)

    def decoded(self, resolution: int) -> tuple[UInt8Array, Size]:
        """What a variant of so many pixels sees, and the size of the upright picture. Raises ImageError."""
        return decode_sized(self._data, resolution, self._catalog.manifest.preprocessing)


def _run(works: Sequence[Classification], assignment: Assignment) -> list[Ran[Classified] | errors.Problem]:
    """What became of each, by the plan of the first. Raises NotReady."""
    plan = works[0].plans[assignment.index]
    taken = now_ms()
    with in_memory(plan.needs):
        started = now_ms()
        images: list[UInt8Array] = []
        read: list[Size | errors.Problem] = []
        for work in works:
            try:
                image, size = work.decoded(plan.resolution)
            except ImageError as error:
                read.append(errors.UnreadableImage(str(error)))
            else:
                images.append(image)
                read.append(size)
        decoded = now_ms()
        if not images:
            return [each for each in read if isinstance(each, errors.Problem)]
        batch = images[0][np.newaxis] if len(images) == 1 else np.stack(images)
        scores = iter(held(plan.session).run(batch))
        ended = now_ms()
    times = decoded - started, ended - decoded, started - taken
    parts = assignment.parts
    found: list[Ran[Classified] | errors.Problem] = []
    for part, size_or_problem in zip(parts, read, strict=True):
        if isinstance(size_or_problem, errors.Problem):
            found.append(size_or_problem)
            continue
        expected = assignment.expected if len(images) == len(works) else part.job.expected[part.index]
        found.append(Ran(Classified(next(scores), size_or_problem), plan.variant, expected, *times))
    return found
