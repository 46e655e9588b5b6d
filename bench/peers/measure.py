"""One block of the table: all servers with one variant and one pipeline, in turn at every point."""

import contextlib
import json
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.peers import environments
from bench.peers.processes import Processes, started, wait_until
from bench.peers.table import PEERS, Peer
from bench.server import free_port
from bench.wrk import Body, post

SERVICE = "service"
CONNECTIONS = (1, 8, 32)
_MEMORY_AT = 8  # connections
_READY_S = 90
_WARM_UP_S = 1
_DRAIN = 3  # answers that come after what the warm-up's clients left behind: not all servers drop that


class PeerFailed(Exception):
    """A server does not start, or answers wrongly."""


@dataclass(frozen=True)
class Server:
    """One that runs, frozen but for its turn."""

    name: str
    url: str
    processes: Processes
    bodies: Mapping[str, Body]  # by picture

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        self.processes.thaw()
        try:
            yield
        finally:
            self.processes.freeze()


@contextlib.contextmanager
def peers(
    names: Sequence[str],
    model: Path,
    pipeline: str,
    pictures: Mapping[str, bytes],
    expected: Mapping[str, int],
) -> Iterator[list[Server]]:
    """Starts the peers one after the other, checks their answers, and leaves them frozen. `expected` is the
    right class of each picture. Raises PeerFailed."""
    with contextlib.ExitStack() as stack:
        servers = []
        for peer in PEERS:
            if peer.name in names:
                server = stack.enter_context(_peer(peer, model, pipeline, pictures))
                for picture, index in expected.items():
                    found = peer.top1(answer(server.url, server.bodies[picture]))
                    if found != index:
                        raise PeerFailed(f"{peer.title} says {found} of {picture}, the same pipeline {index}")
                server.processes.freeze()
                servers.append(server)
        yield servers


@contextlib.contextmanager
def _peer(peer: Peer, model: Path, pipeline: str, pictures: Mapping[str, bytes]) -> Iterator[Server]:
    programs = environments.python_of(peer.name).parent
    port = free_port()
    program, *rest = peer.command(port)
    variables = {
        "PEER_MODEL": str(model.resolve()),
        "PEER_PIPELINE": pipeline,
        "PEER_PORT": str(port),
        "PYTHONPATH": str(environments.ROOT),
        "PATH": f"{programs}:/usr/bin:/bin",
        "VIRTUAL_ENV": str(programs.parent),
    }
    bodies = {name: peer.body(data) for name, data in pictures.items()}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [str(programs / program), *rest]
        with started(command, variables | peer.variables(port), Path(folder), log) as (processes, process):
            url = peer.url(port, pipeline)
            tried = _Tried(url, next(iter(bodies.values())))
            if not wait_until(tried, process, _READY_S):
                said = log.read_text(errors="replace")[-2000:]
                raise PeerFailed(f"{peer.title} does not answer: {tried.problem}; it says: {said}")
            yield Server(peer.name, url, processes, bodies)


def answer(url: str, body: Body) -> Any:
    """The JSON of one answer. Raises PeerFailed unless it is 200."""
    request = urllib.request.Request(url, body.data, {"Content-Type": body.content_type})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise PeerFailed(f"{url}: {error}") from error


@dataclass
class _Tried:
    """Whether a server answers; if not, what the latest problem was."""

    url: str
    body: Body
    problem: str = ""

    def __call__(self) -> bool:
        try:
            answer(self.url, self.body)
        except PeerFailed as error:
            self.problem = str(error)
            return False
        return True


def block(servers: Sequence[Server], pictures: Sequence[str], seconds: int) -> dict[str, Any]:
    """Every point of the block: by picture, by connections, by server. Nobody is always first: the order
    moves on by one at each point."""
    points: dict[str, dict[str, dict[str, Any]]] = {}
    memory: dict[str, float] = {}
    order = list(servers)
    for picture in pictures:
        points[picture] = {}
        for connections in CONNECTIONS:
            row = points[picture][str(connections)] = {}
            for server in order:
                with server.turn():
                    body = server.bodies[picture]
                    post(server.url, body, connections, _WARM_UP_S)
                    for _ in range(_DRAIN):
                        answer(server.url, body)
                    load = post(server.url, body, connections, seconds)
                    if connections == _MEMORY_AT:
                        mib = server.processes.resident_mib()
                        memory[server.name] = round(max(mib, memory.get(server.name, 0)))
                row[server.name] = asdict(load)
                print(f"  {picture} {connections:>2} {server.name:<9} {load}", flush=True)
            order = order[1:] + order[:1]
    return {"points": points, "resident_mib": memory}


def service(base_url: str, process_id: int, variant: str, pictures: Mapping[str, bytes]) -> Server:
    """This service, with a variant pinned and without a budget."""
    url = f"{base_url}/v1/classify?variant={variant}"
    bodies = {name: Body(data) for name, data in pictures.items()}
    return Server(SERVICE, url, Processes(psutil.Process(process_id).pid), bodies)
