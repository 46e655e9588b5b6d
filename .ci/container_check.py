"""Asks a running container everything that it can do, loads it, and ends it in the midst of requests.

Called by `.ci/containers`, which has started it: on a read-only file system, without a shell, within a memory
limit. Ends with an AssertionError that says what is wrong.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx

from model_store.imaging import FORMATS, sample_picture

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / "shared" / "images" / "photos"
REQUESTS = 400


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--docker", required=True)
    parser.add_argument("--container", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    container = Container(options.docker, options.container)
    with httpx.Client(base_url=f"http://127.0.0.1:{options.port}", timeout=30) as http:
        check_confinement(container)
        check_answers(http)
        check_memory(http, container)
    check_drain(container, options.port)


class Container:
    """One container of a Docker engine."""

    def __init__(self, docker: str, id: str) -> None:
        self.docker, self.id = docker, id

    def inspect(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self._run("inspect", self.id).stdout)
        return found[0]

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self._run("exec", self.id, *command)

    def memory(self) -> str:
        """Resident now and at most, of the service: the child of the container's init, where it has one."""
        pid = self.inspect()["State"]["Pid"]
        pid = int((Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or [pid])[0])
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        resident, peak = (int(status[name].split()[0]) >> 10 for name in ("VmRSS", "VmHWM"))
        return f"{resident} MiB resident, {peak} MiB at most"

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.docker, *arguments], capture_output=True, text=True, check=False)


def check_confinement(container: Container) -> None:
    found = container.inspect()
    host = found["HostConfig"]
    assert found["Config"]["User"] == "65532:65532", "it runs as another user"
    assert host["ReadonlyRootfs"], "its file system can be written"
    assert host["CapDrop"] == ["ALL"], "it has capabilities"
    assert "no-new-privileges:true" in host["SecurityOpt"], "it can gain privileges"
    assert host["Memory"] > 0, "its memory has no limit"
    assert container.exec("sh", "-c", "true").returncode != 0, "it has a shell: not what is to be shown"
    assert container.exec("python3", "-c", "import pip").returncode != 0, "it has pip"
    written = container.exec("python3", "-c", "open('/app/new', 'w')")
    assert "Read-only file system" in written.stderr, written.stderr
    kept = container.exec("python3", "-c", "import os; print(os.listdir('/state'))")
    assert "profile-" in kept.stdout, f"no profile is kept: {kept.stdout}{kept.stderr}"


def check_answers(http: httpx.Client) -> None:
    for path in ("/", "/docs", "/openapi.json", "/metrics", "/livez", "/v1/tiers", "/v2", "/v2/health/ready"):
        assert http.get(path).status_code == 200, path
    variants = [v["id"] for v in http.get("/v1/variants").json()["variants"]]
    assert len(variants) >= 4, variants
    for format in FORMATS:
        picture = sample_picture(format, 640, 480, grain=8)
        for body in ({"content": picture}, {"files": {"image": picture}}):
            answer = http.post("/v1/classify?latency_budget_ms=1000", **body)
            assert answer.status_code == 200, f"{format}: {answer.text}"
    for name, photo in photos():
        answer = http.post("/v1/classify", content=photo)
        assert answer.status_code == 200, answer.text
        synsets = [p["synset"] for p in answer.json()["predictions"]]
        assert any(s in name for s in synsets), f"{name} is taken for {synsets}"
    assert http.post("/v1/classify", content=b"no picture").status_code == 415


def photos() -> Iterator[tuple[str, bytes]]:
    """A few photos whose file name has their class; none where they are absent."""
    for path in sorted(PHOTOS.glob("n0*"))[:5]:
        yield path.name, path.read_bytes()


def check_memory(http: httpx.Client, container: Container) -> None:
    """Every variant in turn, pictures up to 12 megapixels, four at a time."""
    variants = [v["id"] for v in http.get("/v1/variants").json()["variants"]]
    sizes = ((500, 375), (1920, 1080), (800, 600), (4000, 3000))
    pictures = [sample_picture("JPEG", *size, grain=8) for size in sizes]

    def ask(i: int) -> int:
        variant = variants[i % len(variants)]
        picture = pictures[i // len(variants) % len(pictures)]
        return http.post(f"/v1/classify?variant={variant}", content=picture).status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(REQUESTS))) == {200}
    found = container.inspect()
    assert not found["State"]["OOMKilled"], "the memory limit was hit"
    assert found["RestartCount"] == 0, "it was started again"
    limit = found["HostConfig"]["Memory"] >> 20
    print(f"after {REQUESTS} requests within {limit} MiB: {container.memory()}")


def begun(port: int, size_bytes: int) -> HTTPConnection:
    """A request whose head the service has read, and whose body it waits for."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/v1/classify")
    connection.putheader("Content-Length", str(size_bytes))
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    interim = b""
    while not interim.endswith(b"\r\n\r\n"):
        received = connection.sock.recv(1024)
        assert received, "the connection was closed"
        interim += received
    assert interim.startswith(b"HTTP/1.1 100 "), interim
    return connection


def check_drain(container: Container, port: int) -> None:
    """SIGTERM while one body is half sent and others wait: all are answered, and the exit code is 0."""
    picture = sample_picture("JPEG", 4000, 3000, grain=8)
    slow, *running = (begun(port, len(picture)) for _ in range(9))
    slow.send(picture[: len(picture) // 2])
    for connection in running:
        connection.send(picture)
    stop = [container.docker, "stop", "--time", "25", container.id]
    stopping = subprocess.Popen(stop, stdout=subprocess.PIPE)
    time.sleep(1)  # the signal has arrived
    slow.send(picture[len(picture) // 2 :])
    codes = [connection.getresponse().status for connection in (slow, *running)]
    assert codes == [200] * 9, f"requests that ran at SIGTERM were answered with {codes}"
    assert stopping.wait() == 0
    state = container.inspect()["State"]
    assert state["ExitCode"] == 0, state
    print("drained: nine requests that ran at SIGTERM were answered, exit code 0")


if __name__ == "__main__":
    main()
