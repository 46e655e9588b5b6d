"""The model store on disk: list, open, verify, install atomically.

    <store>/<task>/task.json, labels.txt
    <store>/<task>/<variant id>/variant.json
    <store>/<task>/<variant id>/1/model.onnx

A variant becomes visible by one rename of a finished folder, so a reader sees the old state or the
new one, whenever the writer dies. Names with a leading dot are work in progress; readers pass over them.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from model_store import atomic
from model_store.manifest import TaskManifest, VariantManifest, is_variant_id

MODEL_PATH = Path("1") / "model.onnx"  # Triton's layout: version 1
_STAGING_PREFIX = ".staging-"
_TASK_NAME = re.compile("[a-z][a-z0-9_-]*")  # as `TaskManifest` has it


class StoreError(Exception):
    """The store cannot do what was asked; the text names what is wrong and what to do."""


class VariantCorrupt(StoreError):
    """A variant's bytes or manifest are not what they should be."""


@dataclass(frozen=True, slots=True)
class StoredVariant:
    """A variant as found on disk: with its manifest, or with the reason why it has none."""

    id: str
    task: str
    path: Path
    manifest: VariantManifest | None
    problem: str | None

    @property
    def size_bytes(self) -> int:
        """Of the model's file; 0 where there is none."""
        try:
            return (self.path / MODEL_PATH).stat().st_size
        except OSError:
            return 0


class ModelStore:
    """A store directory. Reading never writes; a missing directory is an empty store."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def tasks(self) -> list[str]:
        """Names of the tasks that have a `task.json`. Raises StoreError when it cannot be told that there
        are none."""
        found: list[str] = []
        unread: OSError | None = None
        try:
            folders = [path for path in self.root.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return found
        except OSError as error:
            folders, unread = [], error
        for folder in folders:
            try:
                (folder / "task.json").stat()
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                if _TASK_NAME.fullmatch(folder.name):  # not the lost+found of a disk
                    unread = error
            else:
                found.append(folder.name)
        if unread and not found:
            raise StoreError(f"the store cannot be read: {unread.filename}: {unread.strerror}")
        return sorted(found)

    def task(self, name: str) -> TaskManifest:
        """Raises StoreError when the task is unknown or its manifest unreadable."""
        path = self.root / name / "task.json"
        try:
            if "/" in name or name.startswith("."):  # a path, which may well lead to a task elsewhere
                raise FileNotFoundError
            return TaskManifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            known = ", ".join(self.tasks()) or "none"
            raise StoreError(f"the store has no task {name!r}; it has: {known}") from None
        except (OSError, ValidationError) as error:
            raise StoreError(f"task.json of {name!r} cannot be read: {_first_line(error)}") from None

    def labels(self, task: TaskManifest) -> list[str]:
        """One label a class, in the order of the model's output."""
        return self._lines(task, task.labels)

    def synsets(self, task: TaskManifest) -> list[str] | None:
        """WordNet ids in the same order, for the tasks that have them."""
        return None if task.synsets is None else self._lines(task, task.synsets)

    def variants(self, task: str | None = None) -> list[StoredVariant]:
        """Every variant of one task or of all, sound or not; contents are not read (see `open`)."""
        found = []
        for name in self.tasks() if task is None else [task]:
            folder = self.root / name
            entries = sorted(folder.iterdir()) if folder.is_dir() else []
            for path in entries:
                if path.is_dir() and not path.name.startswith("."):
                    found.append(self._inspect(name, path))
        return found

    def open(self, task: str, variant: str) -> tuple[VariantManifest, bytes]:
        """The manifest and the bytes of `model.onnx`, which match its sha256.

        Raises VariantCorrupt, with the variant's name. Reads again when the two disagree and the variant
        was replaced between one read and the other.
        """
        path = self.root / task / variant
        found = self._inspect(task, path)
        while True:
            problem = found.problem
            if found.manifest is not None:
                try:
                    model = (path / MODEL_PATH).read_bytes()
                except OSError as error:
                    problem = f"model.onnx cannot be read ({error.strerror})"
                else:
                    digest = hashlib.sha256(model).hexdigest()
                    if digest == found.manifest.sha256:
                        return found.manifest, model
                    problem = (
                        f"model.onnx does not match its manifest: sha256 {digest[:12]}..., expected "
                        f"{found.manifest.sha256[:12]}...; pull or import it again to mend it"
                    )
            before, found = found, self._inspect(task, path)
            if found == before:
                raise VariantCorrupt(f"{variant} of {task}: {problem}")

    def digest(self) -> str:
        """Changes whenever a task or a variant's model does; measured accuracies do not count."""
        state = hashlib.sha256()
        for v in self.variants():
            model = v.manifest.sha256 if v.manifest else v.problem
            state.update(f"{v.task}/{v.id}/{model}\n".encode())
        return state.hexdigest()

    def install_task(self, manifest: TaskManifest, labels: list[str], synsets: list[str] | None) -> None:
        """Writes a task's files; variants that are there stay."""
        if len(labels) != manifest.classes or (synsets and len(synsets) != manifest.classes):
            raise StoreError(f"{manifest.name} has {manifest.classes} classes, not {len(labels)}")
        with self.locked(manifest.name) as folder:
            atomic.write(folder / manifest.labels, _text(labels))
            if manifest.synsets and synsets:
                atomic.write(folder / manifest.synsets, _text(synsets))
            atomic.write(folder / "task.json", as_json(manifest))  # last: it makes the task visible

    def install(self, manifest: VariantManifest, model: bytes) -> Path:
        """Installs or replaces one variant, all or nothing. Returns its folder."""
        if hashlib.sha256(model).hexdigest() != manifest.sha256:
            raise StoreError(f"the model of {manifest.id} does not match its manifest's sha256")
        with self.locked(
            manifest.task
        ) as folder:  # or another writer takes it for abandoned before it is marked
            staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=folder))
            descriptor = os.open(staging, os.O_RDONLY)
            # The lock marks the folder as alive; it goes with the process that holds it.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            staging.chmod(0o755)
            (staging / MODEL_PATH).parent.mkdir()
            atomic.write(staging / MODEL_PATH, model)
            atomic.write(staging / "variant.json", as_json(manifest))
            with self.locked(manifest.task):
                _remove_abandoned(folder)
                atomic.put_folder(staging, folder / manifest.id)
        finally:
            os.close(descriptor)
            shutil.rmtree(staging, ignore_errors=True)
        return folder / manifest.id

    def update(self, manifest: VariantManifest) -> None:
        """Replaces the manifest of an installed variant, whose model must stay the same."""
        with self.locked(manifest.task) as folder:
            current = self._inspect(manifest.task, folder / manifest.id).manifest
            if current is None or current.sha256 != manifest.sha256:
                raise StoreError(f"{manifest.id} has changed in the meantime; nothing was written")
            atomic.write(folder / manifest.id / "variant.json", as_json(manifest))

    def _inspect(self, task: str, path: Path) -> StoredVariant:
        manifest, problem = None, None
        try:
            manifest = VariantManifest.model_validate_json((path / "variant.json").read_bytes())
            if (manifest.task, manifest.id) != (task, path.name):
                problem = f"its manifest is that of {manifest.task}/{manifest.id}"
            elif not (path / MODEL_PATH).is_file():
                problem = "model.onnx is missing"
        except FileNotFoundError:
            problem = "variant.json is missing" if path.is_dir() else "there is no such variant"
        except (OSError, ValueError) as error:  # ValidationError is a ValueError
            problem = f"variant.json cannot be read: {_first_line(error)}"
        if path.is_dir() and not is_variant_id(path.name):
            problem = f"{path.name!r} is not a variant id, as mobilenet_v1_0.5_160_fp32 is"
        return StoredVariant(path.name, task, path, None if problem else manifest, problem)

    def _lines(self, task: TaskManifest, name: str) -> list[str]:
        path = self.root / task.name / name
        try:
            lines = path.read_text("utf-8").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{name} of {task.name!r} cannot be read: {error}") from None
        if len(lines) != task.classes:
            raise StoreError(f"{name} of {task.name!r}: {len(lines)} lines, {task.classes} classes")
        return lines

    @contextmanager
    def locked(self, task: str) -> Iterator[Path]:
        """The task's folder for one writer at a time, across processes; readers need no lock."""
        folder = self.root / task
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder


def _remove_abandoned(folder: Path) -> None:
    """Removes what writers left that died; a live one holds the lock of its staging folder."""
    for path in folder.glob(f"{_STAGING_PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def as_json(manifest: BaseModel) -> bytes:
    """A manifest as its file holds it."""
    return (json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n").encode()


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join([*(str(part) for part in first["loc"]), first["msg"]])
    return str(error).partition("\n")[0]
