"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_LINE_EVERY_S = 5.0


class Tracker(Protocol):
    """What the work tells while it goes on."""

    def update(self, done: int, total: int | None = None) -> None: ...


@contextmanager
def track(title: str, total: int | None, *, unit: str = "") -> Iterator[Tracker]:
    """Shows progress of `title` on stderr; `unit` "bytes" shows sizes and speed."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(title, total, unit)
        return
    amount: list[ProgressColumn] = [MofNCompleteColumn()]
    if unit == "bytes":
        amount = [DownloadColumn(), TransferSpeedColumn()]
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress, title, total)


class _Bar:
    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total)

    def update(self, done: int, total: int | None = None) -> None:
        self._progress.update(self._task, completed=done, total=total)


class _Lines:
    """A line at most every five seconds: short work stays silent."""

    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._next = time.monotonic() + _LINE_EVERY_S

    def update(self, done: int, total: int | None = None) -> None:
        self._total = total or self._total
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LINE_EVERY_S
        share = f" of {self._total} ({100 * done // self._total} %)" if self._total else ""
        print(f"{self._title}: {done}{share} {self._unit}".rstrip(), file=sys.stderr, flush=True)
