"""What `export` wrote takes the place of a store's tasks: all of it or nothing, and back again if wanted.

Everything is checked and run once beside the store before anything changes. Then each task's folder changes
places with the new one in one step, and the old one stays in `<store>/.previous` until the next update.

What died on the way is ended by the next update or rollback: a file tells which folders were to come in, so
that those that changed places already are known from those that did not.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import urllib.parse
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_store import atomic, self_test
from model_store.download import fetch
from model_store.export import SUMS, is_archive
from model_store.progress import track
from model_store.runtime import ModelUnusable
from model_store.self_test import Subject
from model_store.store import ModelStore, StoreError

_PREVIOUS, _DOWNLOADS, _STAGING = ".previous", ".downloads", ".update-"
_COMING = ".coming"  # in a folder whose tasks change places with the store's: the inodes of those
_MAX_FILE_BYTES = 256 << 20
# Two spaces, or a space and a star (binary), as sha256sum writes them. No name leads out of the store.
_SUM = re.compile(
    r"(?P<sha256>[0-9a-f]{64}) [ *](?P<name>[a-z][a-z0-9_-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*){1,3})"
)


def is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def is_export(source: Path) -> bool:
    """Whether it is what `export` writes, by its name or, for a folder, by its sums."""
    return is_archive(source.name) or (source / SUMS).is_file()


def download(store: ModelStore, url: str) -> Path:
    """Fetches an archive into the store's `.downloads`; what a cut connection left is continued."""
    name = Path(urllib.parse.urlsplit(url).path).name
    if not is_archive(name):
        raise StoreError(f"{url} is not the address of an export, whose name ends in .tar or .tar.gz")
    folder = store.root / _DOWNLOADS
    folder.mkdir(parents=True, exist_ok=True)
    with track(name, None, unit="bytes") as tracker:
        fetch(url, folder / name, tracker=tracker)
    return folder / name


def install(store: ModelStore, source: Path) -> list[str]:
    """The export at `source`, a folder or an archive, replaces the tasks of the same names. Returns those.

    Raises StoreError or ModelUnusable, and changes nothing, when a file is missing, too many or not what its
    sum says, or when a variant does not pass its self-test on this device.
    """
    with _alone(store):
        _settle(store)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=store.root))
        try:
            staging.chmod(0o755)
            _unpack(source, staging)
            tasks = _checked(ModelStore(staging))
            _exchange(store, staging, tasks)
        finally:
            _settle(store)
    return tasks


def roll_back(store: ModelStore) -> list[str]:
    """Brings back the tasks that the last update replaced; what it brought is kept in their place.

    An update that died when it had replaced some of its tasks is the last one, and is not kept. Raises
    StoreError when there is nothing to bring back.
    """
    if store.root.is_dir():
        with _alone(store):
            if undone := _settle(store):
                return undone
            previous = store.root / _PREVIOUS
            if tasks := ModelStore(previous).tasks():
                _exchange(store, previous, tasks)
                _settle(store)
                return tasks
    raise StoreError(f"the store {store.root} keeps nothing from before an update")


def can_roll_back(store: ModelStore) -> bool:
    """Whether anything is kept from before the last update."""
    return bool(ModelStore(store.root / _PREVIOUS).tasks())


@contextmanager
def _alone(store: ModelStore) -> Iterator[None]:
    """One update of a store at a time."""
    store.root.mkdir(parents=True, exist_ok=True)
    with (store.root / ".update.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(source: Path, staging: Path) -> None:
    files = _from_archive(source, staging) if source.is_file() else _from_folder(source)
    sums: dict[str, str] | None = None
    names: dict[str, str] = {}  # of what was unpacked, by its sum
    for name, data in files:
        if sums is None:
            if name != SUMS:
                raise StoreError(f"{source} does not begin with {SUMS}: `model-store export` has not made it")
            sums = _sums(source, data)
            continue
        expected = sums.pop(name, None)
        if expected is None:
            raise StoreError(f"{source}: {name} is not in {SUMS}, or twice in the archive")
        if hashlib.sha256(data).hexdigest() != expected:
            raise StoreError(f"{source}: {name} is not what {SUMS} says; nothing was changed, fetch it again")
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        first = names.setdefault(expected, name)
        if first == name:
            atomic.write(staging / name, data)
        else:
            os.link(staging / first, staging / name)
    if sums is None:
        raise StoreError(f"{source} is empty")
    if sums:
        raise StoreError(f"{source}: {min(sums)} is missing; nothing was changed")


def _from_archive(source: Path, staging: Path) -> Iterator[tuple[str, bytes]]:
    """Read as a stream; nothing counts but regular files, and hard links to those that are unpacked already.
    No name is used before it is checked."""
    unpacked = set()
    try:
        with tarfile.open(source, "r|*") as tar:
            for member in tar:
                if member.islnk() and member.linkname in unpacked:
                    yield member.name, (staging / member.linkname).read_bytes()
                    continue
                if not member.isreg():
                    continue
                if member.size > _MAX_FILE_BYTES:
                    raise StoreError(
                        f"{source}: {member.name} has {member.size} bytes, too many for any variant"
                    )
                file = tar.extractfile(member)
                yield member.name, file.read() if file else b""
                if member.name != SUMS:
                    unpacked.add(member.name)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise StoreError(f"{source} cannot be read as an archive: {error}") from None


def _from_folder(source: Path) -> Iterator[tuple[str, bytes]]:
    sums = (source / SUMS).read_bytes()
    yield SUMS, sums
    for name in _sums(source, sums):
        path = source / name
        if path.is_file():
            yield name, path.read_bytes()


def _sums(source: Path, data: bytes) -> dict[str, str]:
    found = {}
    for line in data.decode("utf-8", "replace").splitlines():
        match = _SUM.fullmatch(line)
        if match is None:
            raise StoreError(f"{source}: a line of {SUMS} cannot be read: {line[:80]!r}")
        found[match["name"]] = match["sha256"]
    return found


def _checked(new: ModelStore) -> list[str]:
    """The tasks, all of whose variants run here and answer as where they were built."""
    tasks = new.tasks()
    if not new.variants():
        raise StoreError("the export has no variants")
    for v, verdict in self_test.run(new.root, [Subject(v.task, v.id) for v in new.variants()]):
        if verdict.outcome != "passed":
            problem = verdict.problem.removeprefix(f"{v.variant} of {v.task}: ")
            raise ModelUnusable(f"{v.variant} of {v.task}: {problem}; nothing was changed")
    return tasks


def _exchange(store: ModelStore, other: Path, tasks: list[str]) -> None:
    """Each task's folder changes places with that in `other`, in one step; all are as before if one fails."""
    coming = {task: (other / task).stat().st_ino for task in tasks}
    atomic.write(other / _COMING, json.dumps(coming).encode())
    try:
        for task in tasks:
            with store.locked(task) as folder:
                _share_lock(folder, other / task)
                atomic.put_folder(other / task, folder)
    except BaseException:
        _take_back(store, other)
        raise


def _progress(other: Path) -> tuple[list[str], list[str]]:
    """The tasks whose folders changed places with those in `other`, and those that have yet to."""
    file = other / _COMING
    coming: dict[str, int] = json.loads(file.read_bytes()) if file.is_file() else {}
    left = [t for t, inode in coming.items() if (other / t).exists() and (other / t).stat().st_ino == inode]
    return [task for task in coming if task not in left], left


def _take_back(store: ModelStore, other: Path) -> list[str]:
    """Returns the tasks whose folders changed places, and did so once more."""
    done = [task for task in _progress(other)[0] if (other / task).exists()]
    for task in done:
        with store.locked(task) as folder:
            atomic.put_folder(other / task, folder)
    return done


def _settle(store: ModelStore) -> list[str]:
    """Ends each exchange: what was replaced becomes `.previous` if all of it was, and else goes back.

    Returns the tasks that an update had replaced and that went back.
    """
    previous, undone = store.root / _PREVIOUS, []
    if all(_progress(previous)):  # a rollback of which some have changed places and some have not
        _take_back(store, previous)
    (previous / _COMING).unlink(missing_ok=True)
    for staging in store.root.glob(f"{_STAGING}*"):
        done, left = _progress(staging)
        if done and not left:
            for task in set(done) - set(ModelStore(staging).tasks()):  # those that were not there before
                shutil.rmtree(staging / task, ignore_errors=True)
            atomic.put_folder(staging, previous)  # all at once: it is in the one place or in the other
            (previous / _COMING).unlink()
        else:
            undone += _take_back(store, staging)
            (staging / _COMING).unlink(missing_ok=True)  # first: without the folders it would mislead
        shutil.rmtree(staging, ignore_errors=True)
    return undone


def _share_lock(folder: Path, other: Path) -> None:
    """Both folders get the lock that is held, so that it still locks the one that takes the other's place."""
    (other / ".lock").unlink(missing_ok=True)
    os.link(folder / ".lock", other / ".lock")
