"""Writers of a store as processes of their own, which die or are overtaken at a chosen step.

`python -m tests.model_store.store_writer STORE` reads one command a line and forks for each, so that a
death costs a millisecond; it answers with the exit codes of what it forked.
"""

import errno
import fcntl
import hashlib
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from model_store import update
from model_store.manifest import Accuracy, Origin, TaskManifest, VariantManifest, parse_variant_id
from model_store.store import ModelStore

TASK = TaskManifest(name="animals", title="Three animals", head="classification", classes=3)
LABELS = ["cat", "dog", "lynx"]
ID = "mobilenet_v1_0.25_128_fp32"
OTHER_ID = "mobilenet_v1_0.5_160_fp32"
MEASURED = Accuracy(top1=0.5, top5=0.75, source="measured", dataset="four pictures", pictures=4)
DIED, UNDISTURBED = 70, 71  # exit codes: died at the step asked for; there was no such step

_CROWD = (ID, ID, ID, ID, OTHER_ID, OTHER_ID, "mobilenet_v1_0.75_192_fp32", "mobilenet_v1_1.0_224_fp32")
_EACH = 6
# Everything by which a process touches files; os.fsync, which tells no one, is wrapped.
_STEPS = {
    "ctypes.dlsym", "fcntl.flock", "open", "os.chmod", "os.link", "os.listdir", "os.mkdir", "os.remove",
    "os.rename", "os.rmdir", "os.scandir",
}  # fmt: skip


def content(version: int) -> bytes:
    """Stands for a model: other bytes for each version, more than one write takes."""
    return hashlib.shake_128(str(version).encode()).digest(70_000)


def manifest(version: int, id: str = ID, task: str = TASK.name) -> VariantManifest:
    alpha, resolution, precision, _ = parse_variant_id(id)
    return VariantManifest(
        id=id,
        task=task,
        alpha=alpha,
        resolution=resolution,
        precision=precision,
        mult_adds=1,
        parameters=version + 1,
        origin=Origin(format="test", location=f"version {version}", sha256="0" * 64),
        licence="none",
        sha256=hashlib.sha256(content(version)).hexdigest(),
    )


def install(store: ModelStore, version: int, id: str = ID) -> None:
    store.install(manifest(version, id), content(version))


class Writers:
    """The process that forks writers of one store."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin
        assert process.stdout
        self._input, self._output = process.stdin, process.stdout

    def start(self, *command: object) -> None:
        print(*command, file=self._input, flush=True)

    def finished(self) -> bool:
        return bool(select.select([self._output], [], [], 0)[0])

    def codes(self) -> list[int]:
        """Exit codes of what the last command forked."""
        return [int(code) for code in self._output.readline().split()]

    def run(self, *command: object) -> int:
        self.start(*command)
        (code,) = self.codes()
        return code


@contextmanager
def writers(root: Path) -> Iterator[Writers]:
    """Started, and ended with the block; what it says on stderr goes to the test's."""
    command = [sys.executable, "-m", "tests.model_store.store_writer", str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Writers(process)
        assert process.stdin
        process.stdin.close()
        assert process.wait(timeout=60) == 0


# What happens in the forking process.


def _replace(store: ModelStore) -> None:
    install(store, 1)


def _add(store: ModelStore) -> None:
    install(store, 1, OTHER_ID)


def _update(store: ModelStore) -> None:
    store.update(manifest(0).with_measured(MEASURED))


def _task(store: ModelStore) -> None:
    store.install_task(TASK, LABELS, None)


def _read(store: ModelStore) -> None:
    found, model = store.open(TASK.name, ID)
    version = found.parameters - 1
    assert model == content(version)
    assert found == manifest(version)


def _import(store: ModelStore) -> None:
    update.install(store, store.root.with_name("new"))


def _roll_back(store: ModelStore) -> None:
    update.roll_back(store)


ACTIONS: dict[str, Callable[[ModelStore], None]] = {
    "replace": _replace, "add": _add, "update": _update, "task": _task, "read": _read,
    "import": _import, "rollback": _roll_back,
}  # fmt: skip


def _die_at(store: ModelStore, action: str, step: int) -> NoReturn:
    """Dies at that step without any clean-up, as from SIGKILL."""
    seen = 0

    def on_step() -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            os._exit(DIED)

    _on_every_step(on_step)
    ACTIONS[action](store)
    os._exit(UNDISTURBED)


def _die_at_byte(store: ModelStore, action: str, size: int) -> NoReturn:
    """The kernel kills it when a file gets longer than that, in the middle of a write."""
    _limit_files(size, signal.SIG_DFL)
    ACTIONS[action](store)
    os._exit(UNDISTURBED)


def _full_at_byte(store: ModelStore, action: str, size: int) -> NoReturn:
    """No file gets longer than that, as on a full disk."""
    _limit_files(size, signal.SIG_IGN)
    try:
        ACTIONS[action](store)
    except OSError as error:
        os._exit(DIED if error.errno == errno.EFBIG else 1)
    os._exit(UNDISTURBED)


def _limit_files(size: int, on_more: signal.Handlers) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, on_more)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _overtaken_at(store: ModelStore, action: str, step: int) -> NoReturn:
    """Another writer installs at that step, unless it would wait for this one; then this one goes on.

    It is another process to all that matters here: locks belong to the opened file.
    """
    seen, busy = 0, False

    def on_step() -> None:
        nonlocal seen, busy
        if busy:
            return
        seen += 1
        busy = True
        if seen == step and _is_free(store):
            install(store, 2, ID if action == "read" else "mobilenet_v1_1.0_192_fp32")
        busy = False

    _on_every_step(on_step)
    ACTIONS[action](store)
    os._exit(0 if seen >= step else UNDISTURBED)


def _overtaken_often(store: ModelStore, action: str, times: int) -> NoReturn:
    """Others replace the variant before each of the first `times` steps."""
    done, busy = 0, False

    def on_step() -> None:
        nonlocal done, busy
        if not busy and done < times:
            busy = True
            done += 1
            install(store, done + 1)
            busy = False

    _on_every_step(on_step)
    ACTIONS[action](store)
    os._exit(0)


def _on_every_step(hook: Callable[[], None]) -> None:
    fsync = os.fsync

    def wrapped(descriptor: int) -> None:
        hook()
        fsync(descriptor)

    os.fsync = wrapped  # type: ignore[assignment]
    sys.addaudithook(lambda event, _: hook() if event in _STEPS else None)


def _is_free(store: ModelStore) -> bool:
    """No one holds the task's lock."""
    with (store.root / TASK.name / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _replace_often(store: ModelStore, times: int) -> None:
    for version in range(1, times + 1):
        install(store, version)


def _crowd(store: ModelStore) -> list[int]:
    """Eight processes that start at once, half of them on the same variant."""
    readable, writable = os.pipe()
    children = []
    for number, id in enumerate(_CROWD):
        child = os.fork()
        if child == 0:
            os.close(writable)
            os.read(readable, 1)  # until the parent closes the other end
            _leave_after(lambda n=number, id=id: _install_some(store, n, id))  # type: ignore[misc]
        children.append(child)
    os.close(writable)
    os.close(readable)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _install_some(store: ModelStore, number: int, id: str) -> None:
    for repetition in range(_EACH):
        install(store, number * _EACH + repetition, id)


def _leave_after(work: Callable[[], None]) -> NoReturn:
    """Ends a forked process by exit code: 1 with a traceback when `work` raised."""
    try:
        work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _forked(work: Callable[[], None]) -> list[int]:
    child = os.fork()
    if child == 0:
        _leave_after(work)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


def main() -> None:
    store = ModelStore(Path(sys.argv[1]))
    update._checked = lambda new: new.tasks()  # what stands for a model here does not run
    disturb = {
        "die": _die_at, "die-at-byte": _die_at_byte, "full-at-byte": _full_at_byte,
        "overtaken": _overtaken_at, "overtaken-often": _overtaken_often,
    }  # fmt: skip
    for line in sys.stdin:
        match line.split():
            case ["crowd"]:
                codes = _crowd(store)
            case ["replace-often", times]:
                codes = _forked(lambda n=int(times): _replace_often(store, n))  # type: ignore[misc]
            case [how, action, step]:
                codes = _forked(lambda h=how, a=action, n=int(step): disturb[h](store, a, n))  # type: ignore[misc]
            case _:
                raise SystemExit(f"what is {line!r}?")
        print(*codes, flush=True)


if __name__ == "__main__":
    main()
