"""Several server processes on one port, for machines with many CPUs.

Each has its own part of the CPUs, its own scheduler, and its own listening socket: with SO_REUSEPORT the
kernel spreads the connections over the sockets. On one shared socket the process that wakes first takes
them, and with keep-alive clients it may keep all.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from prometheus_client.multiprocess import mark_process_dead

from model_store.device import resident_bytes, usable_cpus
from service import server
from service.fitting import limit_bytes
from service.metrics import SHARED_FOLDER
from service.settings import Settings

log = logging.getLogger(__name__)

# Where it is there, metrics stay in memory: they change with every request, and a gateway's disk is a card.
_MEMORY_FOLDER = "/dev/shm"  # noqa: S108  (nothing is put there but a folder of our own)
# A process that has run so long was sound: it is started again at once. Those that end sooner are too, but
# later each time, and not before any process was sound: then none can serve.
_SOUND_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Share:
    """What one of the processes gets: CPUs of its own (none: any), and inference threads."""

    cpus: tuple[int, ...]
    threads: int


def shares(processes: int, cpus: list[int], usable: int) -> list[Share]:
    """Splits `cpus` evenly; where a quota allows less than all of them, or there are too few, only the
    threads are split, at least one for each process."""
    if usable < len(cpus) or usable < processes:
        return [Share((), max(1, usable // processes))] * processes
    parts = [tuple(cpus[i * usable // processes : (i + 1) * usable // processes]) for i in range(processes)]
    return [Share(part, len(part)) for part in parts]


def memory_share_mb(limit_bytes: int, supervisor_bytes: int, processes: int) -> int:
    """What each process may have of the limit for all; one MiB at least, as 0 is no limit."""
    return max(1, (limit_bytes - supervisor_bytes) // processes >> 20)


def pause_before_restart(ran_seconds: float, pause: float) -> float:
    """In seconds, after a process that ran so long and was itself started after such a pause."""
    if ran_seconds >= _SOUND_SECONDS:
        return 0.0
    return min(_LONGEST_PAUSE_SECONDS, max(_FIRST_PAUSE_SECONDS, 2 * pause))


def serve(settings: Settings) -> int:
    """Runs `settings.workers` processes until SIGTERM, SIGINT or SIGHUP. Exit codes: 0 done, 1 failed."""
    try:
        with server.bind(settings) as probe:  # finds out a port that is taken, shared or not
            settings = settings.model_copy(update={"port": probe.getsockname()[1]})
        # It never listens: it keeps the port while all processes are down.
        reserved = server.bind(settings, shared=True)
    except OSError as error:
        server.log_unbound(settings, error)
        return 1
    server.log_bound(reserved)
    limit = limit_bytes(settings)
    if limit is not None:
        share_mb = memory_share_mb(limit, resident_bytes() or 0, settings.workers)
        settings = settings.model_copy(update={"memory_limit_mb": share_mb})
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    split = shares(settings.workers, affinity, usable_cpus())
    if usable_cpus() < settings.workers:
        log.warning("%d processes for %d CPUs: they slow each other down", settings.workers, usable_cpus())
    supervisor = _Supervisor(settings, split)
    with reserved, _shared_metrics():
        return supervisor.run()


@contextlib.contextmanager
def _shared_metrics() -> Iterator[None]:
    """A folder, for as long as there are processes, in which each finds the metrics of all."""
    parent = _MEMORY_FOLDER if os.access(_MEMORY_FOLDER, os.W_OK) else None
    try:
        folder = tempfile.TemporaryDirectory(prefix="mobilenet-metrics-", dir=parent)
    except OSError as error:
        log.warning(
            "there is no folder for temporary files (%s): /metrics tells of one process only", error.strerror
        )
        yield
        return
    with folder as path:
        os.environ[SHARED_FOLDER] = path
        yield


class _Supervisor:
    def __init__(self, settings: Settings, split: list[Share]) -> None:
        self._settings, self._split = settings, split
        self._context = multiprocessing.get_context("spawn")
        self._started: dict[BaseProcess, tuple[int, float]] = {}  # whose share, and when
        self._due: dict[int, float] = {}  # the shares that nobody has now, and when that shall change
        self._pauses = [0.0] * len(split)  # before the latest start of each
        self._any_sound = False
        self._stopping = False

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        server.on_hangup(lambda *_: self._stop())
        for place in range(len(self._split)):
            self._start(place)
        code = 0
        while self._started or (self._due and not self._stopping):
            ended = wait([process.sentinel for process in self._started], timeout=self._patience())
            now = time.monotonic()
            if any(now - since >= _SOUND_SECONDS for _, since in self._started.values()):
                self._any_sound = True
            for process in [p for p in self._started if p.sentinel in ended]:
                place, since = self._started.pop(process)
                process.join()  # its pipe is closed a moment before it has an exit code
                if SHARED_FOLDER in os.environ:  # nothing waits there any more; its counts stay
                    mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
                if self._stopping:
                    # One that a signal met before it had its handler ended as it was asked to.
                    asked = (0, -signal.SIGTERM, -signal.SIGHUP)
                    code = code or (0 if process.exitcode in asked else 1)
                elif self._any_sound:
                    ran = 0.0 if process.exitcode == 1 else now - since  # 1: it never served
                    pause = self._pauses[place] = pause_before_restart(ran, self._pauses[place])
                    self._due[place] = now + pause
                    log.error(
                        "process %s ended with %s: started again%s",
                        process.pid, process.exitcode, f" in {pause:g} s" if pause else "",
                    )  # fmt: skip
                else:
                    log.error("process %s could not serve: its log says why", process.pid)
                    code = 1
                    self._stop()
            self._start_due()
        return code

    def _patience(self) -> float:
        """For how many seconds nothing is to be done unless a process ends."""
        return max(0.0, min([1.0, *(at - time.monotonic() for at in self._due.values())]))

    def _start_due(self) -> None:
        for place in [place for place, at in self._due.items() if at <= time.monotonic()]:
            del self._due[place]
            if not self._stopping:
                self._start(place, joins=bool(self._started))

    def _start(self, place: int, *, joins: bool = False) -> None:
        arguments = (self._settings, self._split[place], joins)
        process = self._context.Process(target=_serve_one, args=arguments, name=f"server-{place}")
        process.start()
        self._started[process] = place, time.monotonic()
        if self._stopping:  # the signal came meanwhile
            process.terminate()

    def _stop(self) -> None:
        self._stopping = True
        for process in list(self._started):
            process.terminate()


def _serve_one(settings: Settings, share: Share, joins: bool) -> None:
    """One that joins others leaves them all connections until it can answer."""
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    server.configure_logging(settings)
    if share.cpus:
        os.sched_setaffinity(0, share.cpus)
    threads = settings.threads or share.threads
    with server.bind(settings, shared=True) as listening:
        settings = settings.model_copy(update={"threads": threads})
        raise SystemExit(server.serve(settings, listening, loads_first=joins))


def _end_with_parent() -> None:
    """Left alone, it would go on with old settings beside whoever takes the shared port next."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101  (it was started by one)
    parent.join()
    log.error("the supervising process is gone: shutting down")
    os.kill(os.getpid(), signal.SIGTERM)
