"""The resolutions of one set of weights are one model: in memory once, and each answers for itself."""

from pathlib import Path

import httpx
import numpy as np
import pytest

import service.fitting
from bench import random_store
from bench.server import running_server
from model_store import build
from model_store.opening import open_variant
from model_store.store import ModelStore, VariantCorrupt
from service.catalog import Catalog
from service.fitting import Fit
from service.loading import load_catalog
from service.memory import MemoryBudget, session_bytes
from service.metrics import Metrics
from service.residency import OnDemand, Residency
from service.settings import Settings
from tests.networks import pictures
from tests.service import pictures as encoded

MIB = 1 << 20
SHAPES = ((0.5, 224), (0.5, 128), (0.25, 128))
LARGE, SMALL, OTHER = (f"mobilenet_v1_{alpha}_{resolution}_fp32" for alpha, resolution in SHAPES)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return random_store.fill(tmp_path / "store", SHAPES)


def sessions(catalog: Catalog) -> dict[str, object]:
    return {variant.id: variant.session for variant in catalog.variants()}


def on_demand(store: ModelStore, limit: int = 1 << 30) -> dict[str, OnDemand[object]]:
    residency = Residency(MemoryBudget(limit, queue=0, decoding=1 << 30), Metrics())
    found = sessions(load_catalog(store, residency=residency))
    return {name: session for name, session in found.items() if isinstance(session, OnDemand)}


def model_path(store: ModelStore, variant: str) -> Path:
    return store.root / "imagenet" / variant / "1" / "model.onnx"


def test_one_session_serves_all_resolutions_of_the_same_weights(store: ModelStore) -> None:
    found = sessions(load_catalog(store))
    assert found[LARGE] is found[SMALL]
    assert found[LARGE] is not found[OTHER]


def test_quantised_they_share_one_too(store: ModelStore) -> None:
    task = store.task("imagenet")
    large, small, other = (build.quantize_variant(store, task, name) for name in (LARGE, SMALL, OTHER))
    assert large.sha256 == small.sha256 != other.sha256
    found = sessions(load_catalog(store))
    assert found[large.id] is found[small.id]
    assert len(set(found.values())) == 4


def test_of_each_precision_the_best_model_has_one_session_more_for_several_threads(
    store: ModelStore,
) -> None:
    """It runs all resolutions of that model; the others' packed weights would cost memory again."""
    task = store.task("imagenet")
    large, small, _ = (build.quantize_variant(store, task, name) for name in (LARGE, SMALL, OTHER))
    parallel = {
        plan.variant.id: plan.session for plan in load_catalog(store, threads=2).plans() if plan.threads == 2
    }
    assert set(parallel) == {LARGE, SMALL, large.id, small.id}
    assert parallel[LARGE] is parallel[SMALL]
    assert parallel[large.id] is parallel[small.id]
    assert len(set(parallel.values())) == 2


def test_several_threads_are_left_out_where_a_more_accurate_variant_is_as_fast(store: ModelStore) -> None:
    found = load_catalog(store, threads=2)
    times = {LARGE: (10, 6), SMALL: (5, 3), OTHER: (1, 1)}
    inference_ms = {plan.key: float(times[plan.variant.id][plan.threads - 1]) for plan in found.plans()}

    def parallel() -> set[str]:
        return {p.variant.id for p in found.worthwhile(inference_ms).plans() if p.threads == 2}

    assert parallel() == {LARGE, SMALL}
    inference_ms[next(p.key for p in found.plans() if p.variant.id == LARGE and p.threads == 2)] = 3.0
    assert parallel() == {LARGE}


def test_another_file_is_another_session(tmp_path: Path) -> None:
    found = sessions(load_catalog(random_store.fill(tmp_path / "store", SHAPES, alike=False)))
    assert len(set(found.values())) == 3


def test_each_resolution_answers_as_it_does_alone(store: ModelStore) -> None:
    """Asked in turns, batches among them: nothing is left of the size before."""
    catalog = load_catalog(store)
    task = store.task("imagenet")
    alone = {name: open_variant(store, task, name)[1] for name in (LARGE, SMALL)}
    for count in (1, 3, 1):
        for name, resolution in ((LARGE, 224), (SMALL, 128)):
            images = pictures(count, resolution)
            (variant,) = (v for v in catalog.variants() if v.id == name)
            np.testing.assert_allclose(variant.session.run(images), alone[name].run(images), atol=1e-6)


def test_both_come_and_go_together(store: ModelStore) -> None:
    """There is room for one model at a time: of the two that share, either brings both."""
    size = model_path(store, LARGE).stat().st_size
    found = on_demand(store, session_bytes(size) + MIB // 2)
    assert found[LARGE] is found[SMALL]
    assert [each.id for each in found[LARGE].variants] == [SMALL, LARGE]
    metrics = found[LARGE].residency._metrics
    for name, resident in ((OTHER, False), (SMALL, True), (LARGE, True)):
        found[name].run(pictures(1))
        assert (found[LARGE].session is not None) is resident
    drops = metrics.text().decode().partition("mobilenet_variant_drops_total{")[2]
    assert all(f'variant="{name}"' in drops for name in (LARGE, SMALL, OTHER))


@pytest.mark.parametrize("spoilt", [LARGE, SMALL])
def test_one_whose_file_is_spoilt_meanwhile_runs_from_the_other(
    store: ModelStore, spoilt: str, caplog: pytest.LogCaptureFixture
) -> None:
    size = model_path(store, LARGE).stat().st_size
    found = on_demand(store, session_bytes(size) + MIB // 2)
    found[OTHER].run(pictures(1))
    assert found[spoilt].session is None
    model_path(store, spoilt).write_bytes(b"?")
    found[spoilt].run(pictures(1))
    assert found[spoilt].problem is None
    first = found[spoilt].variants[0].id  # whose file is read unless it is spoilt
    assert (f"{spoilt} of imagenet cannot be loaded again" in caplog.text) is (spoilt == first)


def test_one_whose_file_is_spoilt_at_the_start_is_refused_alone(store: ModelStore) -> None:
    model_path(store, LARGE).write_bytes(b"?")
    assert set(on_demand(store)) == set(sessions(load_catalog(store))) == {SMALL, OTHER}
    with pytest.raises(VariantCorrupt):
        store.open("imagenet", LARGE)


def test_its_memory_is_reckoned_once(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all models need tells how much is left for pictures that wait."""
    monkeypatch.setattr(service.fitting, "resident_bytes", lambda: 100 * MIB)
    apart = random_store.fill(tmp_path / "apart", SHAPES, alike=False)
    settings = Settings(memory_limit_mb=400, queue_bytes=1 << 30)
    shared, separate = (Fit.of(settings, each, 1, Metrics()).queue_bytes for each in (store, apart))
    assert shared - separate == session_bytes(model_path(store, LARGE).stat().st_size)


def test_a_server_answers_by_each(store: ModelStore, state_dir: Path) -> None:
    with running_server(store.root, state_dir, threads="1") as server:
        for name in (LARGE, SMALL, LARGE, OTHER, SMALL):
            answer = httpx.post(
                f"{server.base_url}/v1/classify?variant={name}", content=encoded.encode("JPEG"), timeout=30
            )
            assert (answer.status_code, answer.json()["variant"]["id"]) == (200, name)
