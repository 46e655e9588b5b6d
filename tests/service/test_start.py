"""From start to stop: what is loaded, what is refused, what is kept, and how it ends."""

import fcntl
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn

from bench.random_store import IDS
from bench.server import RunningServer, running_server
from model_store import atomic
from model_store.profile import DeviceProfile
from model_store.store import ModelStore
from service import errors, measuring, state
from service.app import create_app
from service.loading import load_catalog
from service.server import _Server, on_hangup
from service.settings import Settings
from service.state import Service
from tests.service import pictures

GOOD = pictures.encode("JPEG")


def test_a_corrupted_variant_is_refused_by_name_and_the_rest_serve(own_store: Path, tmp_path: Path) -> None:
    model = own_store / "imagenet" / IDS[0] / "1" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    (own_store / "imagenet" / IDS[1] / "variant.json").write_text("{")
    with running_server(own_store, tmp_path / "state") as server:
        found = {v["id"]: v for v in httpx.get(f"{server.base_url}/v1/variants").json()["variants"]}
        assert [found[name]["loaded"] for name in IDS] == [False, False, True]
        assert "does not match its manifest" in found[IDS[0]]["problem"]
        assert "variant.json" in found[IDS[1]]["problem"]
        answer = httpx.post(f"{server.base_url}/v1/classify", content=GOOD)
        assert answer.json()["variant"]["id"] == IDS[2]
        pinned = httpx.post(f"{server.base_url}/v1/classify?variant={IDS[0]}", content=GOOD)
        assert pinned.status_code == 404
        assert pinned.json()["known"] == [IDS[2]]


def test_an_empty_store_is_alive_not_ready_and_says_what_to_do(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_server(tmp_path / "none", tmp_path / "state", wait_ready=False, log=log) as server:
        for path, ask in (("/readyz", httpx.get), ("/v1/variants", httpx.get)):
            answer = ask(f"{server.base_url}{path}")
            assert path != "/readyz" or answer.status_code == 503
        assert httpx.get(f"{server.base_url}/livez").status_code == 200
        wait_until_it_has_failed(server.base_url)
        for answer in (
            httpx.post(f"{server.base_url}/v1/classify", content=GOOD),
            httpx.get(f"{server.base_url}/v1/tiers"),
        ):
            assert answer.status_code == 503
            assert answer.json()["type"].endswith(":not-ready")
    assert "model-store pull imagenet" in log.read_text()


def test_a_store_of_which_nothing_can_serve_does_not_ask_for_more_variants(
    own_store: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with running_server(
        own_store, tmp_path / "state", wait_ready=False, log=log, memory_limit_mb="100"
    ) as server:
        wait_until_it_has_failed(server.base_url)
        for variant in httpx.get(f"{server.base_url}/v1/variants").json()["variants"]:
            assert "MOBILENET_MEMORY_LIMIT_MB" in variant["problem"]
    written = log.read_text()
    assert f"none of the {len(IDS)} variants of {own_store} can serve" in written
    assert "model-store pull" not in written


def wait_until_it_has_failed(base_url: str) -> None:
    ends = time.monotonic() + 60
    while "could not start" not in httpx.get(f"{base_url}/readyz").text:
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_the_device_is_measured_once(own_store: Path, tmp_path: Path) -> None:
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    for log in logs:
        with running_server(own_store, tmp_path / "state", log=log, threads="1"):
            pass
    assert len(re.findall(r"measured \d of 3: imagenet/", logs[0].read_text())) == 3
    assert "measured" not in logs[1].read_text()
    (profile,) = (tmp_path / "state").glob("profile-*.json")
    assert set(json.loads(profile.read_text())["inference"]) == {f"imagenet/{name}" for name in IDS}


def test_a_profile_that_lacks_a_type_of_picture_is_measured_again(own_store: Path, tmp_path: Path) -> None:
    """Pictures of that type would be answered with 500 until somebody deletes the file."""
    with running_server(own_store, tmp_path / "state"):
        pass
    (path,) = (tmp_path / "state").glob("profile-*.json")
    profile = json.loads(path.read_text())
    assert set(profile["decode"]) == measuring.DECODE_KEYS
    del profile["decode"]["BMP/1"]
    path.write_text(json.dumps(profile))
    with running_server(own_store, tmp_path / "state") as server:
        answer = httpx.post(f"{server.base_url}/v1/classify", content=pictures.encode("BMP"))
        assert answer.status_code == 200
    assert set(json.loads(path.read_text())["decode"]) == measuring.DECODE_KEYS


def test_the_largest_variant_is_measured_with_all_threads_too(own_store: Path, tmp_path: Path) -> None:
    with running_server(own_store, tmp_path / "state", threads="2"):
        pass
    (profile,) = (tmp_path / "state").glob("profile-*.json")
    expected = {f"imagenet/{name}" for name in IDS} | {f"imagenet/{IDS[0]}/2 threads"}
    assert set(json.loads(profile.read_text())["inference"]) == expected


def test_a_state_directory_that_cannot_be_written_only_costs_time(own_store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    log = tmp_path / "log"
    with running_server(own_store, tmp_path / "file" / "state", log=log) as server:
        assert httpx.post(f"{server.base_url}/v1/classify", content=GOOD).status_code == 200
    assert "cannot be written" in log.read_text()


def test_a_state_directory_that_nothing_can_be_asked_of_only_costs_time(
    own_store: Path, tmp_path: Path
) -> None:
    """As one that may not be entered: that a file is not in it cannot be told either."""
    log = tmp_path / "log"
    with running_server(own_store, tmp_path / ("n" * 300), log=log) as server:
        assert httpx.post(f"{server.base_url}/v1/classify", content=GOOD).status_code == 200
    assert "cannot be written" in log.read_text()


def test_a_profile_that_cannot_be_saved_is_measured_once(
    store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a full disk, where the lock can be had."""
    store = ModelStore(store_dir)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    found = DeviceProfile(device="test", inference={})
    measured = []

    def measure(*arguments: object) -> DeviceProfile:
        measured.append(arguments)
        return found

    monkeypatch.setattr(measuring, "measure", measure)
    monkeypatch.setattr(atomic, "write", full)
    profile = measuring.device_profile(load_catalog(store), store, 1, tmp_path)
    assert (profile, len(measured)) == (found, 1)
    assert "cannot be written (No space left on device)" in caplog.text


def test_without_threads_for_its_workers_it_fails_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, store_dir: Path, state_dir: Path
) -> None:
    """As where a container's limit of processes is too low. It was ready, and answered nobody."""
    start = threading.Thread.start

    def scarce(thread: threading.Thread) -> None:
        if thread.name == "inference-1":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    for name in ("keep_freed_memory", "return_freed_memory"):  # which is for good
        monkeypatch.setattr(state, name, lambda *_: None)
    service = Service(Settings(store=store_dir, state_dir=state_dir, threads=2))
    with pytest.raises(RuntimeError):
        service.start()
    assert service.phase == "failed"
    assert "the service cannot start" in caplog.text
    with pytest.raises(errors.NotReady):
        _ = service.scheduler
    assert not [each.name for each in threading.enumerate() if each.name.startswith("inference-")]
    service.stop()


def test_what_is_loaded_is_spared_the_garbage_collector(own_store: Path, tmp_path: Path) -> None:
    phases = []
    service = Service(Settings(store=own_store, state_dir=tmp_path), lambda: phases.append(service.phase))
    service.start()
    service.stop()
    assert phases == ["starting"]
    code = "import gc; from service import server; server.spare_collector(); print(gc.get_freeze_count())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(told.stdout) > 10_000


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_that_waits_for_another_process_can_be_ended(
    own_store: Path, tmp_path: Path, workers: str
) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as one that measures does
        with running_server(own_store, tmp_path, wait_ready=False, workers=workers) as server:
            assert httpx.get(f"{server.base_url}/readyz").status_code == 503
            server.process.terminate()
            assert server.process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("hangups_end")
def test_a_signal_to_end_drains(own_store: Path, state_dir: Path, number: signal.Signals) -> None:
    with running_server(own_store, state_dir, drain_seconds="1.5") as server:
        with httpx.Client(base_url=server.base_url) as http:
            assert http.get("/readyz").status_code == 200
            server.process.send_signal(number)
            until = time.monotonic() + 20
            while (answer := http.get("/readyz")).status_code == 200 and time.monotonic() < until:
                pass
            assert answer.status_code == 503
            assert "shutting down" in answer.json()["detail"]
            assert http.post("/v1/classify", content=GOOD).status_code == 200
        assert server.process.wait(timeout=20) == 0


def test_a_hangup_is_ignored_where_it_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    installed: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda number, _: installed.append(number))
    for before, after in ((signal.SIG_IGN, []), (signal.SIG_DFL, [signal.SIGHUP])):
        monkeypatch.setattr(signal, "getsignal", lambda _, before=before: before)
        on_hangup(lambda *_: None)
        assert installed == after


def test_a_client_that_stalls_does_not_keep_it_from_ending(own_store: Path, state_dir: Path) -> None:
    with running_server(own_store, state_dir) as server:
        address = ("127.0.0.1", int(server.base_url.rpartition(":")[2]))
        with socket.create_connection(address) as stalled:
            stalled.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
            time.sleep(0.5)  # until it is being read
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=40) == 0
            assert b"too little of the body came" in stalled.recv(10_000)


def test_a_signal_that_comes_twice_at_once_does_not_cut_anybody_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To all processes of a group, and from their supervisor. One that comes later is meant."""
    settings = Settings(store=tmp_path)
    service = Service(settings)
    monkeypatch.setattr(service, "phase", "ready")
    server = _Server(uvicorn.Config(create_app(settings)), service)
    seconds = iter([100.0, 100.2, 103.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    forced = []
    for _ in range(3):
        server.handle_exit(signal.SIGTERM, None)
        forced.append(server.force_exit)
    assert (server.should_exit, forced) == (True, [False, False, True])
    assert service.phase == "draining"


def test_what_is_not_http_is_a_problem_too(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", int(server.base_url.rpartition(":")[2]))) as client:
        client.sendall(b"HELLO\r\n\r\n")
        answer = http.client.HTTPResponse(client)
        answer.begin()
        body = json.loads(answer.read())
        assert answer.status == 400
        assert answer.getheader("Content-Type") == "application/problem+json"
        assert body["type"].endswith(":malformed-request")
        assert body["request_id"] == answer.getheader("X-Request-ID")
        assert client.recv(1) == b"", "nothing more can be understood on this connection"


def test_a_connection_that_rested_is_used_again(client: httpx.Client) -> None:
    """Servers commonly close after 5 s, and a proxy's next request finds the connection closing."""
    assert client.get("/livez").is_success
    with client.stream("GET", "/livez") as answer:
        stream = answer.extensions["network_stream"]
        answer.read()
    time.sleep(5.5)
    assert not stream.get_extra_info("is_readable")  # it would be, by the end of the connection
    assert client.get("/livez").is_success


def test_a_key_is_asked_for_where_one_is_set(own_store: Path, state_dir: Path) -> None:
    with running_server(own_store, state_dir, api_key="s3cret") as server:
        url = f"{server.base_url}/v1/classify"
        for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Basic s3cret"}):
            refused = httpx.post(url, content=GOOD, headers=headers)
            assert refused.status_code == 401
            assert refused.json()["type"].endswith(":unauthorized")
        for headers in ({"X-API-Key": "s3cret"}, {"Authorization": "Bearer s3cret"}):
            assert httpx.post(url, content=GOOD, headers=headers).status_code == 200
        assert httpx.get(f"{server.base_url}/readyz").status_code == 200


def test_a_key_that_is_not_ascii_is_sent_as_utf8(own_store: Path, state_dir: Path) -> None:
    with running_server(own_store, state_dir, api_key="schlüssel") as server:
        url = f"{server.base_url}/v1/tiers"
        assert httpx.get(url, headers={b"X-API-Key": "schlüssel".encode()}).status_code == 200
        assert httpx.get(url, headers={b"X-API-Key": b"schlussel"}).status_code == 401


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"MOBILENET_PROT": "8000"}, "unknown variable MOBILENET_PROT"),
        ({"MOBILENET_PORT": "high"}, "MOBILENET_PORT"),
        ({"MOBILENET_TIERS": '{"fast": -1}'}, "MOBILENET_TIERS"),
        ({"MOBILENET_TIERS": "fast"}, "MOBILENET_TIERS"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_its_name(environment: dict[str, str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
