"""Whose CPU time a load takes, by the kernel's accounts (Linux)."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class CpuTime:
    """Milliseconds of CPU time: of a server's first thread, which is its event loop, of its other threads, of
    the load generator, and left idle."""

    loop_ms: float
    workers_ms: float
    generator_ms: float
    idle_ms: float


@dataclass(frozen=True)
class Accounts:
    """At one moment. The generator is what this process has run and waited for."""

    process: int
    _sums: CpuTime

    @classmethod
    def of(cls, process: int) -> Self:
        """Of a server with one process. Raises OSError where the kernel keeps no such accounts."""
        threads = {path.name: _ran_ms(path) for path in Path(f"/proc/{process}/task").iterdir()}
        loop_ms = threads.pop(str(process))
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        generator_ms = 1e3 * (children.ru_utime + children.ru_stime)
        return cls(process, CpuTime(loop_ms, sum(threads.values()), generator_ms, _idle_ms()))

    def since(self, requests: int) -> CpuTime:
        """What each of so many requests has taken since then."""
        now, then = vars(Accounts.of(self.process)._sums), vars(self._sums)
        return CpuTime(**{name: (now[name] - then[name]) / max(1, requests) for name in now})


def _ran_ms(thread: Path) -> float:
    return int((thread / "schedstat").read_text().split()[0]) / 1e6


def _idle_ms() -> float:
    """Of the CPUs that this process may use."""
    usable = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)}
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    ticks = sum(int(fields[4]) for fields in lines if fields[0] in usable)
    return 1e3 * ticks / os.sysconf("SC_CLK_TCK")
