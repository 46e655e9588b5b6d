"""`model-store pull faces` without a registry: an npm of our own says what npm says.

What comes with the product is installed all the same; of it the smallest network alone, to be quick.
"""

import os
from pathlib import Path

import pytest

from model_store import npm, shipped
from model_store.architecture import RESOLUTIONS
from model_store.download import DownloadError, Unreachable
from model_store.sources import FACE_DETECTOR_SOURCE
from model_store.store import ModelStore
from tests.model_store.console import Console


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of the PATH beside the shell's; empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


# As `faces` alone: no detector among them.
NETWORKS = sorted(
    f"faces/mobilenet_v1_0.25_{resolution}_{precision}"
    for resolution in RESOLUTIONS
    for precision in ("fp32", "int8")
)


def installed(store: Path) -> list[str]:
    return sorted(f"{v.task}/{v.id}" for v in ModelStore(store).variants())


def write_npm(folder: Path, script: str) -> None:
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


@pytest.fixture(autouse=True)
def _only_the_smallest_network(monkeypatch: pytest.MonkeyPatch) -> None:
    smallest = shipped.weight_files()[-1]
    assert smallest.name == "0.25.npz"
    monkeypatch.setattr(shipped, "weight_files", lambda: [smallest])


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(capsys)


@pytest.mark.usefixtures("bin_dir")
def test_without_npm_it_says_so_and_what_works_all_the_same(console: Console, tmp_path: Path) -> None:
    _, err = console("pull", "faces", "--store", str(tmp_path / "store"), code=1)
    assert "npm, the package manager of Node.js, is not installed" in err[-1]
    assert "they serve faces=cropped" in err[-1]
    assert installed(tmp_path / "store") == NETWORKS


@pytest.mark.usefixtures("bin_dir")
def test_if_empty_asks_for_the_detector_that_is_missing(console: Console, tmp_path: Path) -> None:
    command = ("pull", "faces", "--if-empty", "--store", str(tmp_path / "store"))
    for _ in range(2):
        _, err = console(*command, code=1)
        assert "npm" in err[-1]


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("ENOTFOUND", Unreachable, "reaches no registry"),
        ("ECONNREFUSED", Unreachable, "reaches no registry"),
        ("E404", DownloadError, r"cannot fetch name@1 \(E404\)"),
    ],
)
def test_what_npm_fails_with_is_told_apart(
    code: str, kind: type[DownloadError], says: str, bin_dir: Path, tmp_path: Path
) -> None:
    write_npm(bin_dir, f"echo 'npm error code {code}' >&2; exit 1")
    with pytest.raises(DownloadError, match=says) as caught:
        npm.fetch_archive("name@1", tmp_path / "archive.tgz")
    assert type(caught.value) is kind
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin"]


def test_an_npm_that_hangs_is_given_up(bin_dir: Path, tmp_path: Path) -> None:
    write_npm(bin_dir, "exec /bin/sleep 60")
    with pytest.raises(Unreachable, match="did not fetch"):
        npm.fetch_archive("name@1", tmp_path / "archive.tgz", timeout_s=0.2)


def test_no_script_of_the_package_is_run(bin_dir: Path, tmp_path: Path) -> None:
    write_npm(bin_dir, 'for x in "$@"; do echo "$x" >> name-1.tgz; done')
    npm.fetch_archive("name@1", tmp_path / "archive.tgz")
    said = (tmp_path / "archive.tgz").read_text().split()
    assert said[:2] == ["pack", "name@1"]
    assert "--ignore-scripts" in said


def test_an_archive_with_other_bytes_is_refused_and_not_kept(
    bin_dir: Path, console: Console, tmp_path: Path
) -> None:
    write_npm(bin_dir, f"echo other > {FACE_DETECTOR_SOURCE.filename}")
    _, err = console("pull", "faces", "--store", str(tmp_path / "store"), code=1)
    assert "the detector was not installed" in err[-1]
    assert FACE_DETECTOR_SOURCE.sha256 in err[-1]
    downloads = tmp_path / "store" / ".downloads"
    assert [name for name in os.listdir(downloads) if name != ".lock"] == []
    assert installed(tmp_path / "store") == NETWORKS


def test_faces_has_no_checkpoints(console: Console, tmp_path: Path) -> None:
    _, err = console("pull", "faces", "0.5_160", "--store", str(tmp_path / "store"), code=2)
    assert "no checkpoints to choose from" in err[-1]
    assert installed(tmp_path / "store") == []
