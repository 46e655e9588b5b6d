"""A server and all processes that it started: started, frozen while others are measured, weighed, stopped."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

_STOP_S = 20
_LEAVE_S = 1  # for children, once their parent has ended


class Processes:
    """The tree below one process."""

    def __init__(self, root: int) -> None:
        self._root = psutil.Process(root)

    def freeze(self) -> None:
        """Stops all, so that what an idle server does costs the others nothing. Parents first: one that
        watches its children must not find them silent."""
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        for process in reversed(self._all()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def resident_mib(self) -> float:
        """Proportional set size: what is shared counts once."""
        total = 0
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                total += process.memory_full_info().pss
        return total / (1 << 20)

    def stop(self) -> None:
        """SIGTERM to the root, as an operator would, and SIGKILL to whatever is left."""
        tree = self._all()
        self.thaw()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._root.send_signal(signal.SIGTERM)
        psutil.wait_procs(tree[:1], timeout=_STOP_S)
        _, left = psutil.wait_procs(tree, timeout=_LEAVE_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_STOP_S)

    def _all(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


@contextlib.contextmanager
def started(
    command: list[str], variables: dict[str, str], folder: Path, log: Path
) -> Iterator[tuple[Processes, subprocess.Popen[bytes]]]:
    """Runs the command with `variables` beside the present ones, in `folder`; stops it at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | variables, cwd=folder, stdout=output, stderr=output
        )
    processes = Processes(process.pid)
    try:
        yield processes, process
    finally:
        processes.stop()
        process.wait()


def wait_until(answers: Callable[[], bool], process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether `answers` came true before the process ended or the time did."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        if answers():
            return True
        time.sleep(0.2)
    return False
