"""How memory is shared out, what is in it at the start, and a server that holds some variants at a time."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import random_store
from bench.server import RunningServer, running_server
from model_store.device import KEPT_BYTES, resident_bytes
from model_store.store import ModelStore
from service.fitting import Fit, first_residents
from service.loading import load_catalog
from service.memory import MemoryBudget, session_bytes
from service.metrics import Metrics
from service.settings import Settings
from tests.service import pictures

MIB = 1 << 20
PICTURE = pictures.encode("JPEG")
SHAPES = ((0.5, 224), (0.5, 192), (0.5, 160), (0.5, 128), (0.25, 224), (0.25, 128))
FASTEST = "mobilenet_v1_0.25_128_fp32"
_LEFT_MIB = 104  # beyond what the process takes: 64 for the runtime, 25 for sessions, which need 32


@given(st.integers(0, 1 << 36), st.integers(0, 1 << 32), st.integers(1, 256))
def test_the_shares_are_never_more_than_the_limit(limit: int, taken: int, workers: int) -> None:
    budget = MemoryBudget.of(limit, taken, workers)
    assert min(budget.sessions, budget.queue, budget.decoding) >= 0
    assert budget.sessions + budget.queue + workers * budget.decoding <= max(0, limit - taken)
    assert budget.decoding <= KEPT_BYTES
    assert budget.sessions >= budget.queue


def test_the_last_one_has_to_be_opened_too() -> None:
    """Of 10 MiB: it takes 12 then, and 50 meanwhile."""
    assert MemoryBudget(sessions=30 * MIB, queue=0, decoding=38 * MIB).holds(30 * MIB, 10 * MIB)
    assert not MemoryBudget(sessions=30 * MIB, queue=0, decoding=37 * MIB).holds(30 * MIB, 10 * MIB)
    assert not MemoryBudget(sessions=29 * MIB, queue=0, decoding=40 * MIB).holds(30 * MIB, 10 * MIB)


def test_the_fastest_is_always_there_and_then_the_most_accurate(store_dir: Path) -> None:
    catalog = load_catalog(ModelStore(store_dir))
    large, middle, small = catalog.variants()
    assert first_residents(catalog, {large.key: 9, middle.key: 5, small.key: 1}) == ([small], [large, middle])
    # What is beaten in both comes last.
    assert first_residents(catalog, {large.key: 4, middle.key: 5, small.key: 1}) == ([small], [large, middle])
    assert first_residents(catalog, {large.key: 1, middle.key: 5, small.key: 2}) == ([large], [middle, small])


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_store.fill(tmp_path_factory.mktemp("six"), SHAPES, alike=False).root


@pytest.fixture(scope="module")
def limit_mb(six: Path, state_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """That leaves room for some of the six, once one thread, the queue and decoding have theirs."""
    if resident_bytes() is None:
        pytest.skip("the system does not tell what is resident")
    log = tmp_path_factory.mktemp("log") / "log"
    with running_server(six, state_dir, log=log, threads="1", memory_limit_mb="1000000"):
        pass
    assert "6 of 6 in memory" in log.read_text()
    taken = re.search(r"memory: (\d+) of 1000000 MiB", log.read_text())
    assert taken
    return str(int(taken[1]) + _LEFT_MIB)


def test_what_is_decoded_in_full_is_limited_by_the_memory(tight: RunningServer, limit_mb: str) -> None:
    """Two threads decode, one picture of 16 bytes a pixel each; 38 bytes of WebP can be 50 megapixels."""
    side = int((int(limit_mb) * MIB / 2 / 16) ** 0.5) + 1
    url = f"{tight.base_url}/v1/classify"
    refused = httpx.post(url, content=pictures.encode("WEBP", side, side), timeout=60)
    assert refused.status_code == 413
    assert refused.json()["limit_pixels"] < side * side
    assert "not progressive" in refused.json()["detail"]
    assert httpx.post(url, content=pictures.encode("JPEG", side, side), timeout=60).status_code == 200


@pytest.fixture(scope="module")
def tight(six: Path, state_dir: Path, limit_mb: str) -> Iterator[RunningServer]:
    with running_server(six, state_dir, threads="1", memory_limit_mb=limit_mb) as server:
        yield server


def variants(server: RunningServer) -> dict[str, bool]:
    found = httpx.get(f"{server.base_url}/v1/variants").json()["variants"]
    assert all(v["latency_ms"]["p50"] > 0 for v in found)
    assert not [v["problem"] for v in found if v["problem"]]
    return {v["id"]: v["loaded"] for v in found}


def counted(server: RunningServer, name: str) -> float:
    text = httpx.get(f"{server.base_url}/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))


def classify(server: RunningServer, query: str) -> httpx.Response:
    return httpx.post(f"{server.base_url}/v1/classify?{query}", content=PICTURE, timeout=30)


def test_what_is_not_in_memory_is_loaded_for_who_asks_for_it(tight: RunningServer) -> None:
    absent = next(name for name, loaded in variants(tight).items() if not loaded)
    loads = counted(tight, "mobilenet_variant_loads_total")
    drops = counted(tight, "mobilenet_variant_drops_total")
    answer = classify(tight, f"variant={absent}")
    assert answer.status_code == 200
    assert answer.json()["variant"]["id"] == absent
    assert variants(tight)[absent]
    assert counted(tight, "mobilenet_variant_drops_total") > drops
    assert classify(tight, f"variant={absent}").status_code == 200
    assert counted(tight, "mobilenet_variant_loads_total") == loads + 1


def test_all_are_served_at_once_within_the_limit(tight: RunningServer) -> None:
    names = [*variants(tight), None]

    def ask(i: int) -> tuple[int, bool]:
        name = names[i % len(names)]
        answer = classify(tight, f"variant={name}" if name else "latency_budget_ms=0.01")
        return answer.status_code, answer.json()["variant"]["id"] == (name or FASTEST)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(42))) == {(200, True)}
    assert variants(tight)[FASTEST]
    assert counted(tight, "mobilenet_resident_variants") < 6


def test_one_that_is_spoilt_meanwhile_costs_only_itself(six: Path, state_dir: Path, limit_mb: str) -> None:
    with running_server(six, state_dir, threads="1", memory_limit_mb=limit_mb) as server:
        loaded = variants(server)
        absent = [name for name, there in loaded.items() if not there]
        assert 1 <= len(absent) <= 4
        assert loaded[FASTEST]
        assert next(iter(loaded.values()))  # the most accurate
        assert counted(server, "mobilenet_resident_variants") == 6 - len(absent)
        model = six / "imagenet" / absent[0] / "1" / "model.onnx"
        sound = model.read_bytes()
        try:
            model.write_bytes(sound[:-1] + b"?")
            answer = classify(server, f"variant={absent[0]}")
        finally:
            model.write_bytes(sound)
        assert answer.status_code == 503
        assert "sha256" not in answer.text
        found = httpx.get(f"{server.base_url}/v1/variants").json()["variants"]
        (spoilt,) = (v for v in found if v["id"] == absent[0])
        assert not spoilt["loaded"]
        assert "does not match" in spoilt["problem"]
        assert classify(server, "").status_code == 200
        assert classify(server, "latency_budget_ms=1000").status_code == 200


def test_what_the_variants_leave_is_for_pictures_that_wait(store_dir: Path) -> None:
    taken = resident_bytes()
    assert taken is not None
    store, most = ModelStore(store_dir), 256 * MIB
    found = {}
    for room_mb in (250, 400, 5000):
        settings = Settings(memory_limit_mb=(taken // MIB) + room_mb, queue_bytes=most)
        fit = Fit.of(settings, store, 2, Metrics())
        assert fit.residency is None
        found[room_mb] = fit.queue_bytes
        budget = MemoryBudget.of(settings.memory_limit_mb * MIB, taken, 2 + 1)
        assert fit.queue_bytes >= min(most, budget.queue)
        sessions = sum(session_bytes(v.size_bytes) for v in store.variants())
        assert fit.queue_bytes + sessions <= max(most, budget.queue) + budget.sessions
    assert found[400] - found[250] > 50 * MIB
    assert found[5000] == most
