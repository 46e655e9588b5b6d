"""The two stages of a photo's faces, on a virtual clock: what fits is told, and what does not is said."""

import io
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from model_store import boxes, tasks
from model_store.faces import LABELS, OUTPUTS
from model_store.imaging import UInt8Array, probe
from model_store.manifest import Origin, VariantManifest, VariantShape
from model_store.profile import CUT, DecodeCost, DeviceProfile, Quantiles, decode_key
from model_store.runtime import CPU, Predictions, Scores
from service import face_analysis
from service.catalog import LoadedDetector, LoadedVariant, TaskCatalog
from service.dispatch import Dispatcher
from service.face_analysis import FaceAnalysis, FacesFound
from service.face_plans import FacePlans
from service.jobs import Assignment, Job
from service.latency import LatencyEstimates
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.residency import OnDemand, Residency
from service.work import Ran

DETECTORS_MS = {512: 60.0, 160: 6.0}
NETWORKS_MS = {1.0: 10.0, 0.25: 1.0}  # a face


@dataclass
class Clock:
    ms: float = 0.0

    def now_ms(self) -> float:
        return self.ms


@dataclass
class Detector:
    """Finds `faces`, in a row; takes its time."""

    clock: Clock
    resolution: int
    faces: int = 1
    provider: str = CPU

    def run(self, images: UInt8Array) -> Predictions:
        self.clock.ms += DETECTORS_MS[self.resolution]
        anchors = boxes.anchors(self.resolution)
        offsets = np.zeros((1, len(anchors), 4), np.float32)
        offsets[0, :, 2:] = -10  # a seventh of the anchor's size
        scores = np.zeros((1, len(anchors)), np.float32)
        small = np.flatnonzero(anchors[:, 2] == anchors[:, 2].min())
        scores[0, small[: self.faces]] = np.linspace(0.95, 0.9, self.faces)
        return Predictions(offsets, scores)


@dataclass
class Network:
    clock: Clock
    alpha: float
    slower: float = 1.0
    ran: list[int] = field(default_factory=list)
    provider: str = CPU

    def run(self, images: UInt8Array) -> Scores:
        self.clock.ms += self.slower * NETWORKS_MS[self.alpha] * len(images)
        self.ran.append(len(images))
        return np.full((len(images), OUTPUTS), self.alpha, np.float32)


def manifest(task: str, shape: VariantShape) -> VariantManifest:
    spec = shape.spec(OUTPUTS)
    return VariantManifest(
        id=shape.id, task=task, alpha=shape.alpha, resolution=shape.resolution, precision=shape.precision,
        mult_adds=spec.mult_adds, parameters=spec.parameters, licence="none", sha256="0" * 64,
        origin=Origin(format="none", location="here", sha256="0" * 64),
    )  # fmt: skip


class Bench:
    """A service's faces without the service."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, absent: float | None = None) -> None:
        """The network of alpha `absent` is not in memory."""
        self.clock = Clock()
        monkeypatch.setattr(face_analysis, "now_ms", self.clock.now_ms)
        self.networks = {alpha: Network(self.clock, alpha) for alpha in NETWORKS_MS}
        self.finders = {size: Detector(self.clock, size) for size in DETECTORS_MS}
        variants = tuple(
            LoadedVariant(
                manifest("faces", VariantShape(alpha, 128, "fp32")),
                on_demand(network) if alpha == absent else network,
                top1,
                "attributes",
            )
            for (alpha, network), top1 in zip(self.networks.items(), (0.9, 0.88), strict=True)
        )
        detectors = tuple(
            LoadedDetector(
                manifest("face-detection", VariantShape(1.0, size, "fp32", "ssd_mobilenet_v1")),
                cast(Any, finder),
                recall,
            )
            for (size, finder), recall in zip(self.finders.items(), (0.9, 0.6), strict=True)
        )
        task = TaskCatalog(tasks.FACES, list(LABELS), None, variants, ())
        times = dict(zip((d.key for d in detectors), DETECTORS_MS.values(), strict=True))
        times |= dict(zip((v.key for v in variants), NETWORKS_MS.values(), strict=True))
        self.plans = FacePlans(task, detectors, times)
        self.variants = variants
        free = DecodeCost(base_ms=0, per_megapixel_ms=0, per_megabyte_ms=0)
        profile = DeviceProfile(
            device="test",
            inference={key: Quantiles(p50=ms, p95=ms) for key, ms in times.items()},
            decode={decode_key("PNG", 1): free, CUT: free},
        )
        self.dispatcher = Dispatcher(LatencyEstimates(profile), 1, max_length=9, max_bytes=1 << 20)

    def faces(self, count: int) -> None:
        for finder in self.finders.values():
            finder.faces = count

    def run(
        self, budget_ms: float | None, max_faces: int = 100, pinned: int | None = None
    ) -> Ran[FacesFound]:
        data = grey()
        variant = None if pinned is None else self.variants[pinned]
        work = FaceAnalysis(self.plans, data, probe(data, 1 << 20), max_faces, variant)
        start = self.clock.ms
        job = Job(
            expected=work.expected(self.dispatcher.estimates),
            top1=work.accuracies,
            arrival=start,
            deadline=None if budget_ms is None else start + budget_ms,
            pinned=0 if work.pinned else None,
        )
        assert self.dispatcher.admit(job, start) is None
        taken = self.dispatcher.next(start)
        assert isinstance(taken, Assignment)
        ran = work.run(taken)
        self.dispatcher.finish(taken, self.clock.ms, ran.inference_ms, ran.expected)
        self.dispatcher.answered(0.7)
        return ran


def on_demand(network: Network) -> OnDemand[Scores]:
    residency = Residency(MemoryBudget(1 << 30, 0, 0), Metrics())
    shape = VariantShape(network.alpha, 128, "fp32")
    return OnDemand(residency, [manifest("faces", shape)], 1 << 20, lambda: network)


def grey() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (320, 320), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def used(ran: Ran[FacesFound]) -> tuple[int, float, int]:
    detector = ran.result.detector
    assert detector is not None
    return detector.manifest.resolution, ran.variant.manifest.alpha, len(ran.result.faces)


@pytest.mark.parametrize(
    ("budget_ms", "detector", "alpha"),
    [(None, 512, 1.0), (200, 512, 1.0), (90, 512, 0.25), (30, 160, 1.0), (12, 160, 0.25)],
)
def test_detector_and_network_are_chosen_together(
    bench: Bench, budget_ms: float | None, detector: int, alpha: float
) -> None:
    assert used(bench.run(budget_ms)) == (detector, alpha, 1)


def test_plans_are_ordered_by_what_they_find_and_get_right(bench: Bench) -> None:
    assert [plan.accuracy for plan in bench.plans.plans] == pytest.approx(
        [0.9 * 0.9, 0.9 * 0.88, 0.6 * 0.9, 0.6 * 0.88]
    )


def test_more_faces_than_expected_get_a_smaller_network(bench: Bench) -> None:
    bench.faces(6)
    ran = bench.run(115)
    assert used(ran) == (512, 0.25, 6)  # one face would have left time for the large network
    assert ran.result.limited_by is None
    assert bench.networks[0.25].ran == [4, 2]


def test_faces_that_there_is_no_time_for_are_left_out_and_it_is_said(bench: Bench) -> None:
    bench.faces(20)
    ran = bench.run(12)
    faces = ran.result.faces
    assert used(ran)[:2] == (160, 0.25)
    assert 1 <= len(faces) < 5
    assert len(ran.result.scores) == len(faces)
    assert (ran.result.limited_by, ran.result.found) == ("time", 20)
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)
    assert faces[0].score == pytest.approx(0.95)
    assert bench.clock.ms <= 12


def test_a_network_that_turns_out_slow_stops_between_batches(bench: Bench) -> None:
    bench.faces(8)
    bench.networks[0.25].slower = 4
    ran = bench.run(25)
    assert len(ran.result.faces) == 4
    assert ran.result.limited_by == "time"


def test_the_surest_face_is_told_whatever_it_takes(bench: Bench) -> None:
    bench.faces(3)
    ran = bench.run(1)
    assert used(ran) == (160, 0.25, 1)


def test_no_more_faces_than_asked_for(bench: Bench) -> None:
    bench.faces(5)
    ran = bench.run(None, max_faces=2)
    assert used(ran) == (512, 1.0, 2)
    assert (ran.result.limited_by, ran.result.found) == ("max_faces", 5)


def test_all_faces_are_counted_however_many_are_told_of(bench: Bench) -> None:
    bench.faces(130)
    ran = bench.run(None, max_faces=100)
    assert used(ran) == (512, 1.0, 100)
    assert (ran.result.limited_by, ran.result.found) == ("max_faces", 130)


def test_a_photo_without_faces_has_none(bench: Bench) -> None:
    bench.faces(0)
    ran = bench.run(None)
    assert (ran.result.faces, ran.result.scores, ran.result.found) == ([], [], 0)
    assert ran.result.limited_by is None


def test_a_pinned_network_runs_on_what_the_best_detector_finds(bench: Bench) -> None:
    bench.faces(5)
    assert used(bench.run(300, pinned=1)) == (512, 0.25, 5)


def test_the_next_photo_is_planned_for_as_many_faces_as_the_latest_had(bench: Bench) -> None:
    assert bench.plans.expected_faces(10) == 1
    bench.faces(6)
    for _ in range(64):
        bench.run(None)
    assert bench.plans.expected_faces(10) == 6
    assert bench.plans.expected_faces(3) == 3
    assert used(bench.run(115))[:2] == (512, 0.25)


def test_what_is_learned_does_not_depend_on_how_many_faces_there_were(bench: Bench) -> None:
    """A photo with ten faces takes longer than one with none, and is as fast as the profile says."""
    for count in [0, 10] * 20:
        bench.faces(count)
        ran = bench.run(None)
        assert ran.inference_ms == pytest.approx(ran.expected.inference_ms)


def test_time_that_runs_short_is_no_reason_to_load_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, absent=0.25)
    bench.faces(6)
    ran = bench.run(115)
    assert used(ran)[:2] == (512, 1.0)
    assert ran.result.limited_by == "time"
    assert not bench.networks[0.25].ran
    assert used(bench.run(300, pinned=1)) == (512, 0.25, 6)  # and now it is in memory
    assert used(bench.run(115)) == (512, 0.25, 6)


def test_a_smaller_network_is_in_use_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another worker could drop it, and count on memory that is not free."""
    bench = Bench(monkeypatch, absent=0.25)
    bench.run(300, pinned=1)  # which brings it into memory
    bench.faces(6)  # more than are planned for
    network, (_, variant) = bench.networks[0.25], bench.plans.task.variants
    session = cast(OnDemand[Scores], variant.session)
    users, run = [], network.run

    def watched(images: UInt8Array) -> Scores:
        users.append(session.users)
        return run(images)

    monkeypatch.setattr(network, "run", watched)
    assert used(bench.run(115)) == (512, 0.25, 6)
    assert users == [1, 1]
    assert session.users == 0


def test_a_network_that_could_not_be_loaded_answers_once_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was planned for as if that took for ever."""
    bench = Bench(monkeypatch, absent=0.25)
    cast(OnDemand[Scores], bench.variants[1].session).problem = "its bytes were wrong"
    bench.faces(6)
    assert used(bench.run(300, pinned=1)) == (512, 0.25, 6)
