"""What a request asks of a worker: the ways to answer it, what each is expected to take, and doing it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from service.catalog import LoadedVariant
from service.errors import Problem
from service.jobs import Assignment
from service.latency import Expected, LatencyEstimates

Result = TypeVar("Result", covariant=True)


@dataclass(slots=True, eq=False)
class Ran(Generic[Result]):
    """What a worker made, with which variant, and the time of its phases in ms; `load_ms` went into bringing
    it into memory.

    `expected` is what the profile expects of what there turned out to be to do: estimates learn by it.
    """

    result: Result
    variant: LoadedVariant
    expected: Expected
    decode_ms: float
    inference_ms: float
    load_ms: float = 0.0


class Work(Protocol[Result]):
    """Anything that is queued; a way to answer is known by its place."""

    @property
    def task(self) -> str:
        """Its task's name."""
        ...

    @property
    def size_bytes(self) -> int:
        """What it keeps in memory while it waits."""
        ...

    @property
    def accuracies(self) -> Sequence[float]:
        """Of each way to answer, the most accurate first."""
        ...

    @property
    def pinned(self) -> bool:
        """Whether the client chose the variant: then there are its own ways only, with one thread first."""
        ...

    def expected(self, estimates: LatencyEstimates) -> list[Expected]:
        """What each way is expected to take, before correction."""
        ...

    def run(self, assignment: Assignment) -> Ran[Result]:
        """On a worker. Raises a Problem for what the client has to mend, or to wait for."""
        ...


class PairedWork(Work[Result], Protocol[Result]):
    """What is expected to pair: see `Expected`."""

    def run_with(self, second: Any, assignment: Assignment) -> Sequence[Ran[Result] | Problem]:
        """As `run`, of this and of another of its kind in one run: what became of each."""
        ...
