"""What is loaded: plans with several threads, on which provider, and what happens where there is none."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

import model_store.candidates
import service.catalog
from bench.random_store import IDS
from model_store import build, tasks
from model_store.manifest import VariantManifest
from model_store.profile import Quantiles
from model_store.runtime import CPU, ModelUnusable, OnnxSession
from model_store.store import ModelStore, StoreError
from service import measuring
from service.catalog import Catalog
from service.loading import load_catalog
from tests.detectors import random_detector


def threads_of(catalog: Catalog) -> list[tuple[str, int]]:
    return [(plan.variant.id, plan.threads) for plan in catalog.plans()]


def test_only_the_most_accurate_model_has_a_plan_with_all_threads(store_dir: Path) -> None:
    found = load_catalog(ModelStore(store_dir), threads=2)
    assert threads_of(found) == [(IDS[0], 1), (IDS[0], 2), (IDS[1], 1), (IDS[2], 1)]
    (task,) = found.tasks.values()
    assert task.top1 == tuple(plan.variant.top1 for plan in task.plans)
    assert len({plan.key for plan in task.plans}) == 4


@pytest.mark.parametrize(("fast_ms", "kept"), [(11.0, True), (11.1, False)])
def test_a_plan_that_several_threads_slow_down_is_left_out(
    store_dir: Path, fast_ms: float, kept: bool
) -> None:
    found = load_catalog(ModelStore(store_dir), threads=2)
    inference_ms = {plan.key: 10.0 if plan.threads == 1 else fast_ms for plan in found.plans()}
    worthwhile = found.worthwhile(inference_ms)
    assert ((IDS[0], 2) in threads_of(worthwhile)) is kept
    (task,) = worthwhile.tasks.values()
    assert len(task.top1) == len(task.plans) == (4 if kept else 3)


@pytest.mark.parametrize(("fast_ms", "opened"), [(11.0, True), (11.1, False)])
def test_what_was_measured_at_an_earlier_start_spares_opening_a_second_session(
    store_dir: Path, fast_ms: float, opened: bool
) -> None:
    found = load_catalog(ModelStore(store_dir), threads=2)
    measured = {
        plan.key: Quantiles(p50=10.0 if plan.threads == 1 else fast_ms, p95=20.0) for plan in found.plans()
    }
    again = load_catalog(ModelStore(store_dir), threads=2, measured=measured)
    assert ((IDS[0], 2) in threads_of(again)) is opened


class ReplacedMeanwhile(ModelStore):
    """The largest variant is gone when it is opened for the second time."""

    opened = 0

    def open(self, task: str, variant: str) -> tuple[VariantManifest, bytes]:
        if variant == IDS[0]:
            self.opened += 1
            if self.opened > 1:
                raise StoreError("it is being replaced")
        return super().open(task, variant)


def test_a_second_session_that_cannot_be_made_costs_only_its_plan(
    store_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = load_catalog(ReplacedMeanwhile(store_dir), threads=2)
    assert threads_of(found) == [(name, 1) for name in IDS]
    assert not found.refused
    assert "one thread only: it is being replaced" in caplog.text


def test_of_two_tasks_that_detect_the_second_is_refused_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last one took the place of the other, and nothing said so."""
    store = ModelStore(tmp_path)
    provenance = build.Provenance("random", "nowhere", "0" * 64, "none")
    for name in ("a-detection", "b-detection"):
        task = tasks.FACE_DETECTION.model_copy(update={"name": name})
        store.install_task(task, ["face"], None)
        build.install_detector(store, task, random_detector(), provenance, resolution=160)
    found = load_catalog(store)
    assert [detector.manifest.task for detector in found.detectors] == ["a-detection"]
    (refused,) = found.refused
    assert (refused.task, refused.id) == ("b-detection", found.detectors[0].id)
    assert f"variant {refused.id} of b-detection is refused: the detectors of a-detection" in caplog.text


OTHER = "OtherExecutionProvider"


class Other(OnnxSession):
    """The CPU provider under another name; the second variant is beyond it."""

    def __init__(self, model: bytes, threads: int = 1, **options: Any) -> None:
        super().__init__(model, threads)
        if options["resolution"] == 160:
            raise ModelUnusable(f"{options['provider']} cannot be loaded")
        self.provider = options["provider"]
        self.callers = options["callers"]


@pytest.fixture
def other_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.catalog, "accelerators", lambda _: {OTHER: "1.0"})
    monkeypatch.setattr(model_store.candidates, "OnnxSession", Other)


@pytest.mark.usefixtures("other_installed")
def test_each_plan_runs_on_its_fastest_provider(store_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ModelStore(store_dir)
    found = load_catalog(store, threads=2)
    slow, fast = Quantiles(p50=10, p95=11), Quantiles(p50=5, p95=6)
    times = {key: slow for plan in found.plans() for key in (plan.key, plan.key_on(OTHER))}
    one, several, *_ = found.plans()
    times |= {one.key_on(OTHER): fast, several.key_on(OTHER): fast}
    times |= {f"imagenet/{IDS[1]}/{OTHER}": fast}
    former = weakref.ref(one.session)
    del one, several
    found = found.accelerated(store, times, workers=2)
    assert f"{IDS[1]} stays on {CPU}: {OTHER} cannot be loaded" in caplog.text
    gc.collect()
    assert former() is None  # its memory is given back
    assert [(p.variant.id, p.threads, p.session.provider) for p in found.plans()] == [
        (IDS[0], 1, OTHER), (IDS[0], 2, OTHER), (IDS[1], 1, CPU), (IDS[2], 1, CPU),
    ]  # fmt: skip
    assert [v.session.provider for v in found.variants()] == [OTHER, CPU, CPU]
    sessions = [plan.session for plan in found.plans()]
    assert [s.callers for s in sessions if isinstance(s, Other)] == [2, 1]
    for plan in found.plans():
        assert plan.variant in found.variants()
        assert plan.key in times


@pytest.mark.usefixtures("other_installed")
def test_each_provider_is_measured_that_agrees(store_dir: Path) -> None:
    store = ModelStore(store_dir)
    measured = measuring.measure(load_catalog(store), store, 1).inference
    assert set(measured) == {f"imagenet/{name}" for name in IDS} | {
        f"imagenet/{IDS[0]}/{OTHER}", f"imagenet/{IDS[2]}/{OTHER}"
    }  # fmt: skip
