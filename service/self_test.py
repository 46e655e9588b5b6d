"""What may serve on this device: tested before the first use, and remembered beside the profile."""

import fcntl
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from model_store import atomic, self_test
from model_store import profile as profiling
from model_store.manifest import VariantManifest
from model_store.runtime import CPU, accelerators
from model_store.self_test import Outcome, Subject, Verdict
from model_store.store import ModelStore

log = logging.getLogger(__name__)

_NOT_TRIED = Verdict("untested", f"it did not pass on {CPU}")


@dataclass(frozen=True, slots=True)
class Tested:
    """Verdicts by `Subject`; what has none may run."""

    verdicts: dict[Subject, Verdict]

    def problem(self, task: str, variant: str) -> str | None:
        """Why it must not be loaded here."""
        verdict = self.verdicts.get(Subject(task, variant))
        return verdict.problem if verdict and verdict.outcome == "failed" else None

    def barred(self, task: str, variant: str) -> frozenset[str]:
        """Providers that must not run it here."""
        return frozenset(
            subject.provider
            for subject, verdict in self.verdicts.items()
            if (subject.task, subject.variant) == (task, variant) and verdict.outcome != "passed"
        )


class _Remembered(BaseModel):
    """A verdict, and of what."""

    model_config = ConfigDict(frozen=True)

    mark: str
    outcome: Outcome
    problem: str = ""


class _Memory(BaseModel):
    """The file: what was found on `device`, by subject."""

    model_config = ConfigDict(frozen=True)

    device: str
    verdicts: dict[str, _Remembered] = {}


def tested(store: ModelStore, state_dir: Path) -> Tested:
    """Tests what of the store was not tested on this device yet, in child processes.

    What passed is not tested again, nor is a provider that failed, until the device, the runtime or the
    variant is another; a variant that failed is, at every start. Of several processes that start together one
    tests, the others wait and read.
    """
    path = profiling.cache_path(state_dir, store.digest())
    path = path.with_name(path.name.replace("profile", "self-test"))
    marks = _marks(store)
    known = _recall(path, marks)
    if known.keys() < marks.keys():
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            with (state_dir / ".self-test.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                known = _complete(store, _recall(path, marks), marks)
                _remember(path, known, marks)
        except OSError:  # which the profile tells of: it is kept there too
            known = _complete(store, known, marks)
    return Tested(known)


def _complete(
    store: ModelStore, known: dict[Subject, Verdict], marks: Iterable[Subject]
) -> dict[Subject, Verdict]:
    """What is known, and verdicts on the rest. Other providers are tried where the CPU's passed; where it did
    not, they are untested, so that none runs for the first time in the process that serves."""
    missing = [subject for subject in marks if subject not in known]
    found = known | _test(store, [subject for subject in missing if subject.provider == CPU])
    sound = {(s.task, s.variant) for s, verdict in found.items() if verdict.outcome == "passed"}
    others = [s for s in missing if s.provider != CPU]
    barred = {s: _NOT_TRIED for s in others if (s.task, s.variant) not in sound}
    return found | barred | _test(store, [s for s in others if s not in barred])


def _test(store: ModelStore, subjects: list[Subject]) -> dict[Subject, Verdict]:
    if subjects:
        log.info("testing in a child process: %s", ", ".join(map(str, subjects)))
    found: dict[Subject, Verdict] = {}
    for subject, verdict in self_test.run(store.root, subjects):
        found[subject] = verdict
        if verdict.outcome != "passed" and subject.provider != CPU:
            log.warning("%s/%s stays on %s: %s", subject.task, subject.variant, CPU, verdict.problem)
        elif verdict.outcome == "untested":
            log.warning("%s serves without a self-test: %s", subject, verdict.problem)
    return found


def _marks(store: ModelStore) -> dict[Subject, str]:
    """All there is to test, and what each verdict depends on beside the device: the model and its answers."""
    marks: dict[Subject, str] = {}
    others = list(accelerators())
    found = [(v.task, v.id, v.manifest) for v in store.variants() if v.manifest]
    for provider in (CPU, *others):
        for task, variant, manifest in found:
            if provider == CPU or manifest.shape.family == "mobilenet_v1":
                marks[Subject(task, variant, provider)] = _mark(manifest)
    return marks


def _mark(manifest: VariantManifest) -> str:
    state = json.dumps([manifest.sha256, manifest.golden], sort_keys=True)
    return hashlib.sha256(state.encode()).hexdigest()[:16]


def _recall(path: Path, marks: dict[Subject, str]) -> dict[Subject, Verdict]:
    try:
        memory = _Memory.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return {}
    found = {}
    for subject, mark in marks.items():
        verdict = memory.verdicts.get(str(subject))
        if verdict is not None and verdict.mark == mark:
            found[subject] = Verdict(verdict.outcome, verdict.problem)
    return found


def _remember(path: Path, known: dict[Subject, Verdict], marks: dict[Subject, str]) -> None:
    kept = {
        str(subject): _Remembered(mark=marks[subject], outcome=verdict.outcome, problem=verdict.problem)
        for subject, verdict in known.items()
        if verdict.outcome == "passed" or (verdict.outcome == "failed" and subject.provider != CPU)
    }
    memory = _Memory(device=profiling.device_name(), verdicts=kept)
    atomic.write(path, memory.model_dump_json(indent=2).encode())
