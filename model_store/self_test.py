"""Each variant, and each execution provider, is tried in a process of its own before it runs in another.

An instruction that the processor does not have ends a process. So a child works through what is to be tried
and says of each, in a line, how it went. When it dies or hangs, it was by the one that it has not told of;
another child goes on with the rest.
"""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from model_store.candidates import open_agreeing
from model_store.device import cpu_model
from model_store.golden import WrongAnswer
from model_store.opening import check_variant, open_variant
from model_store.runtime import CPU, RUNTIME_VERSION, ModelUnusable, OnnxSession
from model_store.store import ModelStore, StoreError

# For one line of a child. The largest variant took 22 s on an emulated core, and no device is as slow.
_SECONDS = 120.0

# Exit codes by which native code ends a process.
_FAULTS = {
    -s for s in (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP)
}
# `unsound`: it cannot be opened, for a reason that whoever opens it finds too. `untested`: nothing is known.
Outcome = Literal["passed", "failed", "unsound", "untested"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A variant on a provider."""

    task: str
    variant: str
    provider: str = CPU

    def __str__(self) -> str:
        return "/".join([self.task, self.variant, *([] if self.provider == CPU else [self.provider])])


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it went, and unless it passed, what happened where and what to do."""

    outcome: Outcome
    problem: str = ""


def run(
    root: Path, subjects: Sequence[Subject], seconds: float = _SECONDS
) -> Iterator[tuple[Subject, Verdict]]:
    """Tries the subjects of the store at `root` in their order, as verdicts are asked for, each for so long.

    A provider beside the CPU's by which a child ended is not tried again: the rest have its verdict.
    """
    left = list(subjects)
    while left:
        for subject, verdict in _in_one_child(root, tuple(left), seconds):
            left.remove(subject)
            yield subject, verdict
        # Where some are left, the child ended by the last one.
        for other in [s for s in left if s.provider == subject.provider != CPU]:
            left.remove(other)
            yield other, verdict


def _in_one_child(
    root: Path, subjects: Sequence[Subject], seconds: float
) -> Iterator[tuple[Subject, Verdict]]:
    """Verdicts up to the one by which the child ended, or of all."""
    # It finds what this process does, wherever that looks.
    code = f"import sys; sys.path[:] = {sys.path!r}; from model_store.self_test import main; main()"
    command = [sys.executable, "-c", code, str(root), *map(str, subjects)]
    try:
        child = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
    except OSError as error:
        yield from _untested(subjects, f"no process can be started for it ({error.strerror})")
        return
    assert child.stdout  # noqa: S101  (it is a pipe)
    with child:
        try:
            if not _line(child.stdout, _SECONDS):  # which comes before anything is tried
                yield from _untested(subjects, f"its process {_end(child)} before it began")
                return
            for subject in subjects:
                line = _line(child.stdout, seconds)
                if line is None:
                    yield subject, _failed(subject, f"it gives no answer within {seconds:.0f} s")
                    return
                if not line:
                    yield subject, _by_its_end(subject, child)
                    return
                yield subject, Verdict(**json.loads(line))
        finally:
            child.kill()


def _line(stream: IO[bytes], seconds: float) -> bytes | None:
    """Empty at the child's end, None when none comes in time."""
    ready, _, _ = select.select([stream], [], [], seconds)
    return stream.readline() if ready else None


def _end(child: "subprocess.Popen[bytes]") -> str:
    try:
        code = child.wait(timeout=1)  # the end of its output is that of the process, but for a moment
    except subprocess.TimeoutExpired:
        return "hung"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _by_its_end(subject: Subject, child: "subprocess.Popen[bytes]") -> Verdict:
    end = _end(child)
    if child.returncode in _FAULTS:
        return _failed(subject, f"its process {end}")
    # Not the model's doing: the kernel's, most likely, when memory is short, or Python's own end.
    ((_, verdict),) = _untested([subject], f"its process {end}, as when memory runs out")
    return verdict


def _untested(subjects: Iterable[Subject], why: str) -> Iterator[tuple[Subject, Verdict]]:
    for subject in subjects:
        yield subject, Verdict("untested", f"{why}: free memory, and start again to have it tested")


def _failed(subject: Subject, what: str) -> Verdict:
    remedy = "install another version of onnxruntime, or remove the variant"
    if subject.provider != CPU:
        remedy = "uninstall the provider or install another version; the CPU's serves"
    return Verdict("failed", f"self-test failed: {what}, on {cpu_model()} with {RUNTIME_VERSION}; {remedy}")


# What happens in the child.


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no disk is filled by what is expected
    with contextlib.suppress(OSError):  # where memory runs out, this one goes and not who serves
        Path("/proc/self/oom_score_adj").write_text("1000")
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is no answer
    root, *subjects = sys.argv[1:]
    _say(answers, {"ready": True})
    store = ModelStore(Path(root))
    for text in subjects:
        _say(answers, asdict(_try(store, Subject(*text.split("/")))))


def _try(store: ModelStore, subject: Subject) -> Verdict:
    try:
        if subject.provider == CPU:
            check_variant(store, subject.task, subject.variant)
        else:
            _try_provider(store, subject)
    except WrongAnswer as error:
        return _failed(subject, str(error))
    except (StoreError, ModelUnusable) as error:
        return Verdict("unsound", str(error)) if subject.provider == CPU else _failed(subject, str(error))
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's own classes share no base
        return _failed(subject, f"it fails to run ({type(error).__name__})")
    return Verdict("passed")


def _try_provider(store: ModelStore, subject: Subject) -> None:
    task = store.task(subject.task)
    manifest, reference = open_variant(store, task, subject.variant)
    if isinstance(reference, OnnxSession):
        model = store.open(subject.task, subject.variant)[1]
        open_agreeing(
            model, reference, manifest.precision, subject.provider,
            head=task.head, resolution=manifest.resolution,
        )  # fmt: skip


def _say(answers: int, what: dict[str, object]) -> None:
    os.write(answers, json.dumps(what).encode() + b"\n")


def _end_with_parent() -> None:
    """The parent holds the other end of the input and never writes to it."""
    os.read(0, 1)
    os._exit(1)
