"""The faces of a photo: what `POST /v1/face-attributes` asks of a worker.

Two stages in one budget. The plan, a detector and a network for the faces, is chosen for as many faces as
the latest photos had; how many there are is known once the detector has run, and then the network is chosen
again, downwards only, and faces that there is no time for are left out, the least sure ones.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model_store.detect import Face, faces_of, surroundings
from model_store.imaging import WHOLE, ImageError, ImageHeader
from model_store.photo import Photo, least_side
from model_store.runtime import Scores
from service import errors, planner
from service.catalog import LoadedDetector, LoadedVariant
from service.clock import now_ms
from service.face_plans import FacePlan, FacePlans
from service.jobs import Assignment
from service.latency import ANSWER_MS, Expected, LatencyEstimates
from service.residency import Opened, held, in_memory, kept, resident
from service.work import Ran

LimitedBy = Literal["max_faces", "time"]

_BATCH = 4  # faces at a time: more gain nothing, and each needs its activations' memory


@dataclass(frozen=True, slots=True)
class FacesFound:
    """Faces, the surest first, with the scores [outputs] of each, and how many `detector` found in all, in a
    picture of upright `size` (width, height).

    Without a detector the picture is a face.
    """

    faces: list[Face]
    scores: list[Scores]
    found: int
    limited_by: LimitedBy | None
    detector: LoadedDetector | None
    size: tuple[int, int]

    @staticmethod
    def cropped(scores: Scores, size: tuple[int, int]) -> "FacesFound":
        return FacesFound([Face(0, 0, *size, 1)], [scores], 1, None, None, size)


class FaceAnalysis:
    """Attributes and age of up to `max_faces` faces of an encoded picture."""

    def __init__(
        self,
        catalog: FacePlans,
        data: bytes,
        header: ImageHeader,
        max_faces: int,
        pinned: LoadedVariant | None = None,
    ) -> None:
        self._catalog, self._data, self._header = catalog, data, header
        self._max_faces = max_faces
        self.pinned = pinned is not None
        self.plans: Sequence[FacePlan] = catalog.plans if pinned is None else [catalog.pinned(pinned)]
        self._faces = catalog.expected_faces(max_faces)
        self._face_ms: dict[str, float] = {}

    @property
    def task(self) -> str:
        return self._catalog.task.manifest.name

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    @property
    def accuracies(self) -> Sequence[float]:
        return [plan.accuracy for plan in self.plans]

    def expected(self, estimates: LatencyEstimates) -> list[Expected]:
        """For the faces that are expected."""
        self._face_ms = {
            v.key: estimates.face_ms(v.key, v.manifest.resolution) for v in self._catalog.task.variants
        }
        return [self._expected(p, estimates) for p in self.plans]

    def run(self, assignment: Assignment) -> Ran[FacesFound]:
        """Raises UnreadableImage, or NotReady where a part cannot be loaded any more."""
        plan = self.plans[assignment.index]
        taken = now_ms()
        with in_memory(plan.needs):
            return self._run(plan, assignment, now_ms() - taken)

    def _run(self, plan: FacePlan, assignment: Assignment, load_ms: float) -> Ran[FacesFound]:
        detector = plan.detector
        started = now_ms()
        try:
            photo = Photo(self._data, detector.manifest.resolution)
        except ImageError as error:
            raise errors.UnreadableImage(str(error)) from None
        whole = photo.whole()
        decoded = now_ms()
        offsets, scores = held(detector.session).run(whole[np.newaxis])
        resolution, most = detector.manifest.resolution, len(scores[0])  # all are counted
        found = faces_of(offsets[0], scores[0], resolution, photo.size, max_faces=most)
        self._catalog.saw(len(found))
        wanted = found[: self._max_faces]
        variant, answered = self._look(photo, wanted, plan, assignment)
        limited_by: LimitedBy | None = None
        if len(answered) < len(wanted):
            limited_by = "time"
        elif len(wanted) < len(found):
            limited_by = "max_faces"
        result = FacesFound(wanted[: len(answered)], answered, len(found), limited_by, detector, photo.size)
        done = self._done(assignment, plan, variant, len(answered))
        return Ran(result, variant, done, decoded - started, now_ms() - decoded, load_ms)

    def _expected(self, plan: FacePlan, estimates: LatencyEstimates) -> Expected:
        detector = plan.detector
        decode_ms = estimates.decode_ms(self._header, least_side(detector.manifest.resolution), WHOLE)
        faces_ms = self._faces * self._face_ms[plan.variant.key]
        detection_ms = estimates.profiled(detector.key).p50
        return Expected(plan.key, decode_ms, detection_ms + faces_ms, needs=plan.needs)

    def _done(self, assignment: Assignment, plan: FacePlan, variant: LoadedVariant, faces: int) -> Expected:
        """What the profile expects of what there turned out to be."""
        planned = assignment.expected
        detection_ms = planned.inference_ms - self._faces * self._face_ms[plan.variant.key]
        faces_ms = faces * self._face_ms[variant.key]
        return Expected(planned.key, planned.decode_ms, detection_ms + faces_ms)

    def _look(
        self, photo: Photo, faces: list[Face], plan: FacePlan, assignment: Assignment
    ) -> tuple[LoadedVariant, list[Scores]]:
        """The network that fits, and what it says of each face, as far as there is time."""
        if not faces:
            return plan.variant, []
        # Of the time that the profile expects: what almost all such requests took of late.
        slower = assignment.slowdown
        deadline = math.inf if assignment.job.deadline is None else assignment.job.deadline - ANSWER_MS
        candidates = list(self._candidates(plan))
        per_face_ms = [slower * self._face_ms[v.key] for v, _ in candidates]
        index, count = planner.fit_faces(per_face_ms, len(faces), deadline - now_ms())
        variant, session = candidates[index]
        candidates.clear()  # the memory of those that others drop meanwhile returns
        scores: list[Scores] = []
        with kept(variant.session):
            for start in range(0, count, _BATCH):
                batch = faces[start : min(start + _BATCH, count)]
                if scores and now_ms() + len(batch) * per_face_ms[index] > deadline:
                    break
                size = variant.manifest.resolution
                pixels = np.stack([photo.cut(surroundings(face), size) for face in batch])
                scores.extend(session.run(pixels))
        return variant, scores

    def _candidates(self, plan: FacePlan) -> Iterator[tuple[LoadedVariant, Opened[Scores]]]:
        """The planned one, and the less accurate ones in memory that take less; best first."""
        yield plan.variant, held(plan.variant.session)
        if self.pinned:
            return
        least = self._face_ms[plan.variant.key]
        for variant in self._catalog.task.variants:
            session = resident(variant.session)
            if session and variant.top1 < plan.variant.top1 and self._face_ms[variant.key] < least:
                least = self._face_ms[variant.key]
                yield variant, session
