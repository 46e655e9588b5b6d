"""Before it serves: what a device cannot run is left out, the rest serves, and nothing is tested twice."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from bench.random_store import IDS
from bench.server import RunningServer, running_server
from model_store import profile
from model_store.device import cpu_model
from model_store.runtime import CPU, RUNTIME_VERSION
from model_store.store import ModelStore
from service import preflight, self_test
from tests.service import pictures

FAILING = Path(__file__).parents[1] / "failing_device"
OTHER = "BadExecutionProvider"
GOOD = pictures.encode("JPEG")
TESTING = re.compile("testing in a child process: (.*)")


def failing(monkeypatch: pytest.MonkeyPatch, **how: str) -> None:
    """In the server and in its child."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAILING), os.getcwd()]), prepend=os.pathsep)
    monkeypatch.setenv("FAILING_DEVICE", json.dumps(how))


@pytest.fixture
def measured(server: RunningServer, state_dir: Path, tmp_path: Path) -> Path:
    """A state directory that has the profile and nothing else."""
    state = tmp_path / "state"
    state.mkdir()
    for path in state_dir.glob("profile-*"):
        shutil.copy(path, state)
    return state


def remembered(state: Path) -> dict[str, dict[str, str]]:
    (path,) = state.glob("self-test-*.json")
    found: dict[str, dict[str, str]] = json.loads(path.read_text())["verdicts"]
    return found


def test_what_crashes_or_is_wrong_is_refused_with_the_reason_and_the_rest_serves(
    own_store: Path, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would die with the child's signal if it ran the model."""
    failing(monkeypatch, **{"224": "SIGILL"})
    store = ModelStore(own_store)
    manifest, _ = store.open("imagenet", IDS[2])
    other, _ = store.open("imagenet", IDS[1])
    store.update(manifest.model_copy(update={"golden": {"white": other.golden["slopes"]}}))
    log = tmp_path / "log"
    with running_server(own_store, measured, log=log) as server:
        found = {v["id"]: v for v in httpx.get(f"{server.base_url}/v1/variants").json()["variants"]}
        assert [found[name]["loaded"] for name in IDS] == [False, True, False]
        answer = httpx.post(f"{server.base_url}/v1/classify", content=GOOD)
        assert answer.json()["variant"]["id"] == IDS[1]
    for name, what in ((IDS[0], "was ended by SIGILL"), (IDS[2], "apart from that where it was built")):
        for part in (what, cpu_model(), RUNTIME_VERSION, "install another version of onnxruntime"):
            assert part in found[name]["problem"]
        assert f"variant {name} of imagenet is refused: {found[name]['problem']}" in log.read_text()
    assert set(remembered(measured)) == {f"imagenet/{IDS[1]}"}


def test_what_passed_is_not_tested_again_until_it_is_another(
    own_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store, state = ModelStore(own_store), tmp_path / "state"
    for _ in range(2):
        assert all(
            verdict.outcome == "passed" for verdict in self_test.tested(store, state).verdicts.values()
        )
    assert TESTING.findall(caplog.text) == [", ".join(f"imagenet/{name}" for name in sorted(IDS))]
    caplog.clear()
    manifest, _ = store.open("imagenet", IDS[2])
    store.update(manifest.model_copy(update={"golden": {}}))
    self_test.tested(store, state)
    assert TESTING.findall(caplog.text) == [f"imagenet/{IDS[2]}"]


def test_another_device_is_tested_anew(
    own_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    store, state = ModelStore(own_store), tmp_path / "state"
    self_test.tested(store, state)
    monkeypatch.setattr(profile, "device_name", lambda: "another CPU")
    self_test.tested(store, state)
    assert len(TESTING.findall(caplog.text)) == 2


def test_of_several_processes_one_tests(own_store: Path, measured: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_server(own_store, measured, log=log, workers="2", threads="1"):
        pass
    assert len(TESTING.findall(log.read_text())) == 1


def test_a_provider_that_crashes_is_left_out_and_not_tried_again(
    own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would die with the child's signal if it made a session on it."""
    failing(monkeypatch, **{OTHER: "SIGSEGV"})
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    for log in logs:
        with running_server(own_store, tmp_path / "state", log=log, threads="1") as server:
            found = httpx.get(f"{server.base_url}/v1/variants").json()["variants"]
            assert [v["provider"] for v in found] == ["CPUExecutionProvider"] * 3
            assert httpx.post(f"{server.base_url}/v1/classify", content=GOOD).status_code == 200
    first, second = (log.read_text() for log in logs)
    assert (
        f"{IDS[0]} stays on CPUExecutionProvider: self-test failed: its process was ended by SIGSEGV" in first
    )
    assert "testing" not in second


def test_a_runtime_that_cannot_be_loaded_ends_the_start_with_the_reason(
    own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As onnxruntime 1.21.0 on a Raspberry Pi 4."""
    package = tmp_path / "site" / "onnxruntime"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}{os.pathsep}{os.getcwd()}")
    monkeypatch.setenv("MOBILENET_STATE_DIR", str(tmp_path / "state"))
    for _ in range(2):  # what failed is not remembered
        done = subprocess.run(
            [sys.executable, "-m", "service", "--store", str(own_store), "--port", "0"],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == (
            f"mobilenet-service: {RUNTIME_VERSION} cannot be loaded on {cpu_model()} (SIGILL): "
            "install another version of onnxruntime\n"
        )


def test_that_the_runtime_loads_is_found_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight.problem(tmp_path / "state") is None
    monkeypatch.setattr(subprocess, "run", None)
    assert preflight.problem(tmp_path / "state") is None


def test_without_a_child_everything_serves_untested_and_the_log_says_so(
    own_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "none"))
    monkeypatch.setattr(self_test, "accelerators", lambda: {OTHER: "1.0"})
    found = self_test.tested(ModelStore(own_store), tmp_path / "state")
    assert [found.problem("imagenet", name) for name in IDS] == [None] * 3
    # On the CPU's provider, that is: what nobody tried is not tried by the server.
    assert [found.barred("imagenet", name) for name in IDS] == [{CPU, OTHER}] * 3
    assert caplog.text.count("serves without a self-test: no process can be started for it") == 3
    assert not remembered(tmp_path / "state")


def test_a_state_directory_that_cannot_be_written_only_costs_time(own_store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = self_test.tested(ModelStore(own_store), tmp_path / "file" / "state")
    assert [verdict.outcome for verdict in found.verdicts.values()] == ["passed"] * 3
