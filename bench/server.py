"""A real `mobilenet-service` process on a free port, for benchmarks and for tests."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True)
class RunningServer:
    """A started server; `ready_s` is how long it took from the start of the process to ready."""

    base_url: str
    process: subprocess.Popen[bytes]
    ready_s: float

    def resident_mib(self) -> float:
        """Resident memory of the process, from /proc (Linux)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("the kernel reports no VmRSS")


class ServerFailed(Exception):
    """The server ended or was not ready in time."""


@contextlib.contextmanager
def running_server(
    store: Path,
    state_dir: Path,
    *,
    wait_ready: bool = True,
    timeout_s: float = 180,
    log: Path | None = None,
    **settings: str,
) -> Iterator[RunningServer]:
    """Starts the service with `MOBILENET_<NAME>` for each of `settings`; stops it by SIGTERM at the end."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MOBILENET_")}
    environment |= {f"MOBILENET_{name.upper()}": value for name, value in settings.items()}
    environment |= {"MOBILENET_STATE_DIR": str(state_dir)}
    command = [sys.executable, "-m", "service", "--port", str(port), "--store", str(store)]
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        started = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        stack.callback(_stop, process)
        base_url = f"http://127.0.0.1:{port}"
        path = "/readyz" if wait_ready else "/livez"
        _wait(f"{base_url}{path}", process, timeout_s)
        yield RunningServer(base_url, process, time.monotonic() - started)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with httpx.Client() as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerFailed(f"the server ended with exit code {process.returncode}")
            with contextlib.suppress(httpx.TransportError):
                if client.get(url).status_code == 200:
                    return
            time.sleep(0.02)
    raise ServerFailed(f"{url} did not answer 200 within {timeout_s} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
