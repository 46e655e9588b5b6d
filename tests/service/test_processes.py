"""Several processes on one port: CPUs are split, connections spread, they end and restart together."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.multiprocess import MultiProcessCollector

from bench.server import RunningServer, running_server
from service.metrics import SHARED_FOLDER
from service.processes import Share, memory_share_mb, pause_before_restart, shares
from tests.service.pictures import encode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sockets are shared this way on Linux")


@given(st.integers(1, 16), st.lists(st.integers(0, 255), unique=True, min_size=1, max_size=64))
def test_every_cpu_has_one_process_and_no_process_much_more_than_another(
    processes: int, cpus: list[int]
) -> None:
    split = shares(processes, sorted(cpus), len(cpus))
    assert len(split) == processes
    if processes > len(cpus):
        assert split == [Share((), 1)] * processes
        return
    assert [cpu for share in split for cpu in share.cpus] == sorted(cpus)
    threads = [share.threads for share in split]
    assert threads == [len(share.cpus) for share in split]
    assert max(threads) - min(threads) <= 1


def test_a_quota_is_split_in_threads_not_in_cpus() -> None:
    assert shares(2, list(range(16)), 4) == [Share((), 2), Share((), 2)]


def test_memory_is_split_too_but_for_what_the_supervisor_takes() -> None:
    assert memory_share_mb(1000 << 20, 60 << 20, 2) == 470
    assert memory_share_mb(50 << 20, 60 << 20, 2) == 1


def children(server: RunningServer) -> list[int]:
    """The serving processes: multiprocessing has a helper of its own beside them."""
    pid = server.process.pid
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in command_line(child)]


def command_line(process: str) -> bytes:
    """Nothing of one that has just ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def answers(server: RunningServer) -> float:
    text = httpx.get(f"{server.base_url}/metrics").text
    counts = re.findall(r"^mobilenet_answers_total\{.*\} ([\d.]+)$", text, re.MULTILINE)
    return sum(float(count) for count in counts)


def shared_metrics(server: RunningServer) -> Path:
    """The folder in which each process finds the metrics of all."""
    environment = Path(f"/proc/{children(server)[0]}/environ").read_bytes().split(b"\0")
    prefix = f"{SHARED_FOLDER}=".encode()
    return Path(next(e for e in environment if e.startswith(prefix)).removeprefix(prefix).decode())


def answers_of(folder: Path, process: int) -> float:
    files = [str(folder / f"counter_{process}.db")]
    counters = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    return sum(float(s.value) for m in counters if m.name == "mobilenet_answers" for s in m.samples)


def ready(base_url: str) -> None:
    """Until whoever answers is ready, twenty times in a row."""
    deadline, in_a_row = time.monotonic() + 60, 0
    while in_a_row < 20:
        assert time.monotonic() < deadline
        try:
            in_a_row = in_a_row + 1 if httpx.get(f"{base_url}/readyz").status_code == 200 else 0
        except httpx.TransportError:
            in_a_row = 0
        if not in_a_row:
            time.sleep(0.05)


def test_two_processes_share_the_port_and_the_cpus(own_store: Path, tmp_path: Path) -> None:
    with running_server(own_store, tmp_path / "state", workers="2") as server:
        ready(server.base_url)
        affinities = [os.sched_getaffinity(child) for child in children(server)]
        assert len(affinities) == 2
        if len(os.sched_getaffinity(0)) >= 2:
            assert not affinities[0] & affinities[1]
        picture = encode("JPEG", 64, 64)
        for _ in range(41):  # each on a connection of its own
            assert httpx.post(f"{server.base_url}/v1/classify", content=picture).status_code == 200
        folder = shared_metrics(server)
        served = [answers_of(folder, child) for child in children(server)]
        assert sum(served) == 41
        assert min(served) > 0, "one process took every connection"
        for _ in range(20):
            assert answers(server) == 41, "whoever is asked tells of all"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert not folder.exists()


def test_a_process_that_dies_is_started_again(own_store: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_server(own_store, tmp_path / "state", workers="2", log=log) as server:
        ready(server.base_url)
        picture = encode("JPEG", 64, 64)
        for _ in range(20):
            assert httpx.post(f"{server.base_url}/v1/classify", content=picture).status_code == 200
        first = children(server)
        assert answers_of(shared_metrics(server), first[0]) > 0
        time.sleep(6)  # so long it must have run to count as sound
        second = killed(server, first[0])
        killed(server, second)  # which has run for a moment only
        while log.read_text().count("ready: ") < 3:  # its sibling has all connections until it can answer
            assert httpx.get(f"{server.base_url}/readyz").status_code == 200
        ready(server.base_url)
        assert first[1] in children(server)
        assert answers(server) == 20, "what a process has answered counts when it is gone"
        assert "mobilenet_queue_length 0.0" in httpx.get(f"{server.base_url}/metrics").text
    assert len(re.findall("started again$", log.read_text(), re.MULTILINE)) == 1
    assert len(re.findall("started again in 1 s$", log.read_text(), re.MULTILINE)) == 1


def killed(server: RunningServer, child: int) -> int:
    """Waits for the one that takes its place."""
    others = set(children(server))
    os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not (new := set(children(server)) - others):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return new.pop()


def test_one_that_cannot_load_any_more_leaves_the_others_all_connections(
    own_store: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with running_server(own_store, tmp_path / "state", workers="2", log=log) as server:
        ready(server.base_url)
        time.sleep(6)  # so long it must have run to count as sound
        shutil.rmtree(own_store)
        own_store.mkdir()
        first = children(server)
        killed(server, first[0])
        deadline = time.monotonic() + 30
        while "started again in 1 s" not in log.read_text():
            assert httpx.get(f"{server.base_url}/readyz").status_code == 200
            assert time.monotonic() < deadline
        assert first[1] in children(server)


def test_a_process_that_ends_again_and_again_is_started_ever_later() -> None:
    pauses, pause = [], 0.0
    for _ in range(7):
        pause = pause_before_restart(0.1, pause)
        pauses.append(pause)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert pause_before_restart(3600, 30) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_ends_the_start_with_its_name(own_store: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "service", "--port", str(port), "--store", str(own_store)]
        ended = subprocess.run([*command, "--workers", workers], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_port_that_other_processes_share_is_taken_too(own_store: Path, tmp_path: Path) -> None:
    with running_server(own_store, tmp_path / "state", workers="2", wait_ready=False) as server:
        port = server.base_url.rpartition(":")[2]
        command = [sys.executable, "-m", "service", "--port", port, "--store", str(own_store)]
        ended = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


def test_without_their_parent_the_processes_end(own_store: Path, tmp_path: Path) -> None:
    """They share the port: who is left over would answer beside the service that is started next."""
    with running_server(own_store, tmp_path / "state", workers="2") as server:
        ready(server.base_url)
        orphans = children(server)
        server.process.kill()
        server.process.wait()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{orphan}").exists() for orphan in orphans):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.usefixtures("hangups_end")
def test_a_terminal_that_is_closed_ends_them_in_order(own_store: Path, tmp_path: Path) -> None:
    with running_server(own_store, tmp_path / "state", workers="2") as server:
        ready(server.base_url)
        for each in (*children(server), server.process.pid):  # all of them are told
            os.kill(each, signal.SIGHUP)
        assert server.process.wait(20) == 0


def test_a_signal_while_they_start_ends_them(own_store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "--port", "0", "--store", str(own_store), "--workers", "2"]
    environment = os.environ | {"MOBILENET_STATE_DIR": str(tmp_path / "state")}
    for seconds in (0.8, 1.0, 1.2, 1.5, 2.0):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)
