"""What is told of the device, and that memory is given back near the limit."""

import threading
import time
from pathlib import Path

import pytest

import service.memory_guard
import service.metrics
from service.memory_guard import MemoryGuard
from service.metrics import SHARED_FOLDER, Metrics
from service.schemas import Decision, told


def test_sensors_are_told_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks: dict[str, float] = {}
    monkeypatch.setattr(service.metrics, "cpu_hertz", lambda: clocks)
    monkeypatch.setattr(service.metrics, "celsius", dict)
    metrics = Metrics()
    assert b"hertz" not in metrics.text()
    clocks["cpu0"] = 6e8  # at each scrape anew
    assert b'mobilenet_cpu_frequency_hertz{cpu="cpu0"} 6e+08' in metrics.text()
    assert b"celsius" not in metrics.text()


def test_the_slowdown_is_one_until_something_else_is_known() -> None:
    metrics = Metrics()
    assert b"mobilenet_slowdown_ratio 1.0" in metrics.text()
    metrics.slowed(1.75)
    assert b"mobilenet_slowdown_ratio 1.75" in metrics.text()


def test_what_no_variant_was_sure_to_fit_fits_when_it_was_on_time() -> None:
    assert told("infeasible", met=True) == "fits"
    assert told("infeasible", met=False) == "infeasible"
    others: list[Decision] = ["fits", "degraded", "pinned", "unbounded"]
    for decision in others:
        assert told(decision, met=True) == told(decision, met=False) == decision


def test_the_process_is_told_of() -> None:
    samples = dict(line.split(" ") for line in Metrics().text().decode().splitlines() if line[0] != "#")
    assert float(samples["process_resident_memory_bytes"]) > 1 << 20
    assert 0 < float(samples["process_start_time_seconds"]) <= time.time()


def test_of_several_processes_none_passes_for_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))
    assert b"process_" not in Metrics().text()


def test_near_the_limit_freed_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    released, looked = threading.Event(), threading.Semaphore(0)
    resident = 80

    def resident_bytes() -> int:
        looked.release()
        return resident

    monkeypatch.setattr(service.memory_guard, "_INTERVAL_S", 0.001)
    monkeypatch.setattr(service.memory_guard, "resident_bytes", resident_bytes)
    monkeypatch.setattr(service.memory_guard, "release_memory", released.set)
    guard = MemoryGuard(100)
    guard.start()
    for _ in range(3):
        assert looked.acquire(timeout=30)
    assert not released.is_set()
    resident = 90
    assert released.wait(30)
    guard.stop()
