"""Files and folders that are the old ones or the new ones, also where the system cannot exchange two."""

import errno
import os
from pathlib import Path

import pytest

from model_store import atomic


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def folder_with(path: Path, **files: str) -> Path:
    (path / "deep").mkdir(parents=True)
    for name, text in files.items():
        (path / "deep" / name).write_text(text)
    return path


def test_write_makes_and_replaces(tmp_path: Path, old: Path) -> None:
    atomic.write(old, b"new")
    atomic.write(tmp_path / "other", b"")
    assert tree(tmp_path) == {"file": b"new", "other": b""}
    assert old.stat().st_mode & 0o777 == 0o644


def test_who_has_the_old_file_open_reads_on_in_it(old: Path) -> None:
    with old.open("rb") as file:
        atomic.write(old, b"new and longer")
        assert file.read() == b"old"
    assert old.read_bytes() == b"new and longer"


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_in_between_keeps_the_old_file(
    call: str, failure: BaseException, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(failure)):
        atomic.write(old, b"new")
    assert tree(tmp_path) == {"file": b"old"}


def test_a_write_into_no_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic.write(tmp_path / "none" / "file", b"new")


def test_bytes_are_on_the_disk_before_the_name_is(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut leaves the new name with nothing in it."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append(("sync", "folder" if path == tmp_path else path.read_bytes().decode()))
        fsync(descriptor)

    def seen_replace(source: Path, target: Path) -> None:
        calls.append(("replace", target.name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    atomic.write(old, b"new")
    assert calls == [("sync", "new"), ("replace", "file"), ("sync", "folder")]


def test_put_folder_moves_where_nothing_stands(tmp_path: Path) -> None:
    staging = folder_with(tmp_path / "staging", a="new")
    atomic.put_folder(staging, tmp_path / "target")
    assert tree(tmp_path) == {"target/deep/a": b"new"}
    assert not staging.exists()


@pytest.mark.parametrize("stands", [False, True])
def test_a_folder_is_on_the_disk_before_it_has_its_name(
    stands: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut leaves the name with a folder that lacks files."""
    staging, target = folder_with(tmp_path / "staging", a="new"), tmp_path / "target"
    if stands:
        folder_with(target, a="old")
    synced = []
    fsync = os.fsync

    def seen_fsync(descriptor: int) -> None:
        is_new = (target / "deep" / "a").exists() and (target / "deep" / "a").read_text() == "new"
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), is_new))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    atomic.put_folder(staging, target)
    assert set(synced[:-1]) == {(staging, False), (staging / "deep", False)}
    assert synced[-1] == (tmp_path, True)


def test_put_folder_exchanges_with_what_stands_there(tmp_path: Path) -> None:
    target = folder_with(tmp_path / "target", a="old", b="old")
    staging = folder_with(tmp_path / "staging", a="new")
    before = target.stat().st_ino, staging.stat().st_ino
    atomic.put_folder(staging, target)
    assert tree(tmp_path) == {"target/deep/a": b"new", "staging/deep/a": b"old", "staging/deep/b": b"old"}
    assert (staging.stat().st_ino, target.stat().st_ino) == before


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system or file system without renameat2."""
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)


@pytest.mark.usefixtures("no_exchange")
def test_put_folder_replaces_without_an_exchange(tmp_path: Path) -> None:
    target = folder_with(tmp_path / "target", a="old", b="old")
    atomic.put_folder(folder_with(tmp_path / "staging", a="new"), target)
    assert tree(tmp_path) == {"target/deep/a": b"new", "staging/deep/a": b"old", "staging/deep/b": b"old"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["staging", "target"]


@pytest.mark.usefixtures("no_exchange")
def test_without_an_exchange_a_failure_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = folder_with(tmp_path / "target", a="old")
    staging = folder_with(tmp_path / "staging", a="new")
    rename = os.rename

    def fail_for_staging(source: Path, destination: Path) -> None:
        if source == staging:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail_for_staging)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.put_folder(staging, target)
    assert tree(tmp_path) == {"target/deep/a": b"old", "staging/deep/a": b"new"}
    assert {p.name for p in tmp_path.iterdir()} == {"target", "staging"}


def test_exchange_is_false_where_a_path_is_missing(tmp_path: Path) -> None:
    one = folder_with(tmp_path / "one", a="1")
    assert not atomic._exchange(one, tmp_path / "none")
    assert tree(tmp_path) == {"one/deep/a": b"1"}
