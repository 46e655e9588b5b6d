"""`import` of an export and `import --rollback` that die at any step: each task whole, and nothing lost."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store import export, update
from model_store.store import ModelStore, StoreError
from tests.model_store import store_writer
from tests.model_store.store_writer import DIED, ID, LABELS, TASK, UNDISTURBED, Writers, writers

NAMES = ["animals", "birds"]


def write(root: Path, version: int, names: list[str] = NAMES) -> None:
    """A store, or what `export` makes of one, whose tasks all are of one version."""
    with_sums = root.name == "new"
    source = ModelStore(root.with_name("unsummed") if with_sums else root)
    for name in names:
        source.install_task(TASK.model_copy(update={"name": name}), LABELS, None)
        source.install(store_writer.manifest(version, ID, name), store_writer.content(version))
    if with_sums:
        shutil.rmtree(root, ignore_errors=True)
        export.export(source, {name: [ID] for name in names}, root)
        shutil.rmtree(source.root)


def versions(store: ModelStore) -> list[int]:
    """Of each task, in the order of their names; all are whole."""
    return [store.open(name, ID)[0].parameters - 1 for name in store.tasks()]


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of version 1, which replaced version 0; version 2 is to come."""
    monkeypatch.setattr(update, "_checked", ModelStore.tasks)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # there are hundreds of stores to be written
    root = tmp_path / "before"
    write(root, 0)
    write(tmp_path / "new", 1)
    update.install(ModelStore(root), tmp_path / "new")
    write(tmp_path / "new", 2)
    return root


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def processes(store: ModelStore) -> Iterator[Writers]:
    with writers(store.root) as process:
        yield process


def each_death(processes: Writers, store: ModelStore, before: Path, action: str) -> Iterator[int]:
    """Numbers of the steps at which it died, each time in a copy of the store `before`."""
    step = 1
    while True:
        shutil.rmtree(store.root, ignore_errors=True)
        shutil.copytree(before, store.root)
        code = processes.run("die", action, step)
        if code == UNDISTURBED:
            return
        assert code == DIED
        yield step
        step += 1


def rest(store: ModelStore) -> list[str]:
    return sorted(p.name for p in store.root.iterdir() if p.name not in (".update.lock", ".previous"))


def test_a_rollback_after_a_death_brings_back_what_was_replaced(
    before: Path, store: ModelStore, processes: Writers
) -> None:
    seen = set()
    for _ in each_death(processes, store, before, "import"):
        found = versions(store)
        seen.add(tuple(found))
        update.roll_back(store)
        assert versions(store) == ([1, 1] if 2 in found else [0, 0])
        assert rest(store) == NAMES
        if found != [2, 1]:  # a half of an update is not kept
            update.roll_back(store)
            assert versions(store) == found
    assert seen == {(1, 1), (2, 1), (2, 2)}


def test_an_update_after_a_death_keeps_what_it_replaced(
    before: Path, store: ModelStore, processes: Writers, tmp_path: Path
) -> None:
    write(tmp_path / "newer" / "new", 3)
    for _ in each_death(processes, store, before, "import"):
        complete = versions(store) == [2, 2]
        update.install(store, tmp_path / "newer" / "new")
        assert versions(store) == [3, 3]
        assert rest(store) == NAMES
        update.roll_back(store)
        assert versions(store) == ([2, 2] if complete else [1, 1])


def test_tasks_that_were_not_there_before_come_all_or_not_at_all(
    before: Path, store: ModelStore, processes: Writers
) -> None:
    shutil.rmtree(before / ".previous")
    shutil.rmtree(before / "animals")  # which is the first to come
    for _ in each_death(processes, store, before, "import"):
        complete = versions(store) == [2, 2]
        try:
            update.roll_back(store)
        except StoreError:
            assert versions(store) == [1]
        else:
            assert versions(store) == ([2, 1] if complete else [1])


def test_a_rollback_after_one_that_died_is_whole(before: Path, store: ModelStore, processes: Writers) -> None:
    seen = set()
    for _ in each_death(processes, store, before, "rollback"):
        found = versions(store)
        seen.add(tuple(found))
        update.roll_back(store)
        assert versions(store) == ([1, 1] if found == [0, 0] else [0, 0])
        update.roll_back(store)
        assert versions(store) == ([0, 0] if found == [0, 0] else [1, 1])
        assert rest(store) == NAMES
    assert seen == {(1, 1), (0, 1), (0, 0)}
