"""How many pictures a second, and how much of that is lost to HTTP: `python -m bench.throughput`.

A closed loop (`wrk`) with 1, 8 and 32 connections posts raw JPEG bodies to a real server. Beside it, in the
same run and in turn with it, the same decoding and inference run in a plain loop on all CPUs without HTTP;
`of loop` is the share of that loop's pictures that come through HTTP. Below stands whose CPU time a picture
takes, where the kernel tells.

With `--processes 1 2` a server of one process and one of two take turns, too: `--workers` of the service.

With `--url` any server is loaded, as it is; the loop then needs `--store` and one `--variant`.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path

from bench import in_process, photos
from bench.cpu_time import Accounts, CpuTime
from bench.machine import machine
from bench.server import RunningServer, ServerFailed, running_server
from bench.wrk import Body, Load, WrkFailed, post
from model_store.device import keep_freed_memory
from model_store.runtime import RUNTIME_VERSION, OnnxSession
from model_store.store import ModelStore, StoreError

CONNECTIONS = (1, 8, 32)
VARIANTS = ("mobilenet_v1_1.0_224_fp32", "mobilenet_v1_0.25_128_int8")
LOOP = "loop"
_WARM_UP_S, _WARM_UPS = 1, 20


@dataclass(frozen=True)
class Row:
    """One variant ("" for what an URL runs) with one picture: all rounds of `LOOP`, of so many
    connections ("8"), and of so many to several processes ("8 to 2"). `cpu` is of a request in each of the
    rounds to one process."""

    variant: str
    picture: str
    rounds: dict[str, list[Load]]
    cpu: dict[str, list[CpuTime]] = field(default_factory=dict)

    def median(self, name: str) -> Load:
        """The round in the middle by requests a second, with the errors of all."""
        loads = sorted(self.rounds[name], key=lambda load: load.requests_per_s)
        middle = asdict(loads[len(loads) // 2])
        return Load(**middle | {"errors": sum(load.errors for load in loads)})

    def of_loop(self, name: str) -> float | None:
        """The median over the rounds of this one's share of the loop; None without one."""
        loops = self.rounds.get(LOOP)
        if not loops:
            return None
        pairs = zip(self.rounds[name], loops, strict=True)
        return statistics.median(load.requests_per_s / of.requests_per_s for load, of in pairs)

    def cpu_of(self, name: str) -> CpuTime | None:
        """The medians over the rounds; None where it was not accounted for."""
        times = self.cpu.get(name)
        if not times:
            return None
        names = [each.name for each in fields(CpuTime)]
        return CpuTime(*(statistics.median(getattr(time, name) for time in times) for name in names))


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    pictures = photos.of_sizes(options.photos)
    keep_freed_memory()
    rows = []
    variants = options.variant or ([""] if options.url else VARIANTS)
    try:
        if options.store:  # before anything is measured
            for variant in filter(None, variants):
                ModelStore(options.store).open("imagenet", variant)
        with _servers(options) as servers:
            for variant in variants:
                for name, picture in pictures.items():
                    rows.append(_measured(options, servers, variant, name, picture))
                    print("\n".join(lines(rows[-1])), flush=True)
    except (WrkFailed, StoreError, ServerFailed) as error:
        print(f"throughput: {error}", file=sys.stderr)
        return 1
    if options.output:
        options.output.write_text(json.dumps(report(rows, options.seconds), indent=2) + "\n")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, help="the variants; without --url a server is started over it")
    parser.add_argument("--url", help="what to post to, query included")
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG pictures")
    parser.add_argument("--variant", action="append", help=f"default: {', '.join(VARIANTS)}")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--processes", type=int, nargs="+", default=(1,), help="of the servers over --store")
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="in each the loop and the server take turns")
    parser.add_argument("--output", type=Path, help="JSON")
    options = parser.parse_args(arguments)
    if not (options.store or options.url):
        parser.error("give --store or --url")
    if options.url and len(options.variant or ()) > 1:
        parser.error("an URL runs one variant: give --variant once")
    if options.url and tuple(options.processes) != (1,):
        parser.error("what answers at an URL has the processes it has: leave --processes out")
    return options


@contextlib.contextmanager
def _servers(options: argparse.Namespace) -> Iterator[dict[int, RunningServer]]:
    """Servers over the store, by the number of their processes; none for an URL."""
    with contextlib.ExitStack() as stack:
        found = {}
        for count in () if options.url else options.processes:
            state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            found[count] = stack.enter_context(running_server(options.store, state, workers=str(count)))
        yield found


def _measured(
    options: argparse.Namespace,
    servers: Mapping[int, RunningServer],
    variant: str,
    name: str,
    picture: bytes,
) -> Row:
    urls = {of: f"{server.base_url}/v1/classify?variant={variant}" for of, server in servers.items()}
    runs: dict[str, Callable[[int], Load]] = {}
    if options.store and variant:
        runs[LOOP] = _loop(options.store, variant, picture)
    for connections in options.connections:
        for processes, url in (urls or {1: options.url}).items():
            key = str(connections) if processes == 1 else f"{connections} to {processes}"
            runs[key] = partial(post, url, Body(picture), connections)
    for run in runs.values():
        _warm_up(run)
    row = Row(variant, name, {key: [] for key in runs})
    for _ in range(options.rounds):
        for key, run in runs.items():
            accounts = _accounts(servers) if key.isdecimal() else None
            load = run(options.seconds)
            row.rounds[key].append(load)
            if accounts is None:
                continue
            with contextlib.suppress(OSError):  # a thread has just ended, or the server
                row.cpu.setdefault(key, []).append(accounts.since(load.requests))
    return row


def _accounts(servers: Mapping[int, RunningServer]) -> Accounts | None:
    """Of the server with one process, where there is one and the kernel tells."""
    with contextlib.suppress(OSError):
        return Accounts.of(servers[1].process.pid) if 1 in servers else None
    return None


def _warm_up(run: Callable[[int], Load]) -> None:
    """Until nothing fails: of several processes one may be ready before the others."""
    for _ in range(_WARM_UPS):
        if not run(_WARM_UP_S).errors:
            return


def _loop(root: Path, variant: str, picture: bytes) -> Callable[[int], Load]:
    store = ModelStore(root)
    manifest, model = store.open("imagenet", variant)
    preprocessing = store.task("imagenet").preprocessing
    session = OnnxSession(model)
    return lambda seconds: in_process.loop(session, manifest.resolution, preprocessing, picture, seconds)


def lines(row: Row) -> list[str]:
    """As they are printed."""
    found = [f"{row.variant or 'the URL'}, {row.picture}"]
    for name in row.rounds:
        load, share = row.median(name), row.of_loop(name)
        text = f"  {_title(name):<27} {load.requests_per_s:7.1f}/s"
        text += f"  p50 {load.p50_ms:7.2f}  p99 {load.p99_ms:7.2f} ms"
        if share is not None and name != LOOP:
            text += f"  {share:.3f} of loop"
        found.append(text + (f"  {load.errors} ERRORS" if load.errors else ""))
        cpu = row.cpu_of(name)
        if cpu is not None:
            found.append(
                f"    CPU ms a picture: event loop {cpu.loop_ms:.2f}, workers {cpu.workers_ms:.2f}, "
                f"wrk {cpu.generator_ms:.2f}, idle {cpu.idle_ms:.2f}"
            )
    return found


def _title(name: str) -> str:
    if name == LOOP:
        return "no HTTP"
    connections, _, processes = name.partition(" to ")
    return f"{connections} connections" + (f", {processes} processes" if processes else "")


def report(rows: Sequence[Row], seconds: int) -> dict[str, object]:
    """For JSON."""
    return {
        "device": machine(),
        "runtime": RUNTIME_VERSION,
        "seconds": seconds,
        "rows": [
            {
                "variant": row.variant,
                "picture": row.picture,
                "loads": {name: asdict(row.median(name)) for name in row.rounds},
                "of_loop": {name: row.of_loop(name) for name in row.rounds if name != LOOP},
                "cpu": {name: asdict(cpu) for name in row.rounds if (cpu := row.cpu_of(name)) is not None},
                "rounds": {name: [asdict(load) for load in loads] for name, loads in row.rounds.items()},
            }
            for row in rows
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
