"""One picture for one network of a task: what `POST /v1/classify` asks of a worker."""

from collections.abc import Sequence
from typing import NamedTuple

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
        plan = self.plans[assignment.index]
        taken = now_ms()
        with in_memory(plan.needs):
            started = now_ms()
            image, size = self._decoded(plan)
            decoded = now_ms()
            scores = held(plan.session).run(image[np.newaxis])[0]
            ended = now_ms()
        times = decoded - started, ended - decoded, started - taken
        return Ran(Classified(scores, size), plan.variant, assignment.expected, *times)

    def run_with(
        self, second: "Classification", assignment: Assignment
    ) -> list[Ran[Classified] | errors.Problem]:
        """Both have the time of both. One that cannot be read leaves the other alone."""
        plan = self.plans[assignment.index]
        started = now_ms()
        read: list[tuple[UInt8Array, Size] | errors.Problem] = []
        for work in (self, second):
            try:
                read.append(work._decoded(plan))
            except errors.UnreadableImage as problem:
                read.append(problem.with_traceback(None))  # which knows this frame, which would know it
        decoded = now_ms()
        images = [each[0] for each in read if isinstance(each, tuple)]
        scores = iter(held(plan.session).run(np.stack(images)) if images else ())
        times = decoded - started, now_ms() - decoded
        found: list[Ran[Classified] | errors.Problem] = []
        for part, each in zip(assignment.parts, read, strict=True):
            if isinstance(each, errors.Problem):
                found.append(each)
                continue
            expected = assignment.expected if len(images) == 2 else part.job.expected[part.index]
            found.append(Ran(Classified(next(scores), each[1]), plan.variant, expected, *times))
        return found

    def _decoded(self, plan: Plan) -> tuple[UInt8Array, Size]:
        """What the variant sees, and the size of the upright picture."""
        try:
            preprocessing = self._catalog.manifest.preprocessing
            return decode_sized(self._data, plan.resolution, preprocessing, self._header)
        except ImageError as error:
            raise errors.UnreadableImage(str(error)) from None
