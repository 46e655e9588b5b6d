"""What an image carries: all that serving needs and none of the rest, in the same bytes every time."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy import assemble

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Our own packages as pip would unpack them."""
    target = tmp_path / "site"
    for name in ("model_store", "service"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_what_serves_is_kept_and_what_fills_a_store_is_not(site: Path) -> None:
    assemble.keep_what_serves(site)
    kept = {path.name for path in (site / "model_store").iterdir()}
    assert {"store.py", "runtime.py", "imaging.py", "jpeg.py", "__init__.py"} <= kept
    assert not {"cli.py", "pull.py", "build.py", "quantize.py", "importers", "tasks"} & kept
    modules = "model_store, service.__main__, service.processes, service.healthcheck"
    imports = f"import {modules}; print(model_store.__file__)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", imports],
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=site, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(site)


def test_two_trees_of_the_same_files_are_the_same(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "app"
    shutil.copytree(site, other)
    os.utime(other / "service" / "app.py")
    for tree in (site, other):
        assemble.compile_all(tree, PYTHON)
        assemble.date_all(tree, 1_000_000_000)
    assert list((site / "service" / "__pycache__").glob("app.*.pyc"))
    assert _contents(site) == _contents(other)


def test_byte_code_of_another_python_is_not_made(site: Path) -> None:
    assemble.compile_all(site, "3.99")
    assert not list(site.rglob("*.pyc"))


def test_removing_takes_folders_and_files_and_leaves_the_rest(tmp_path: Path) -> None:
    for name in (
        "numpy/lib/tests/test_a.py",
        "numpy/lib/a.py",
        "numpy/lib/a.pyi",
        "bin/tool",
        "x.dist-info/LICENSE",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assemble.remove(tmp_path, ("bin", "**/tests", "**/*.pyi"))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"numpy/lib/a.py", "x.dist-info/LICENSE"}


def test_the_images_versions_are_ones_that_the_project_allows() -> None:
    lines = (ROOT / "deploy" / "constraints.txt").read_text().splitlines()
    pinned = {
        name.lower().replace("_", "-"): version
        for name, _, version in (line.partition("==") for line in lines)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["build"]:
        wanted = Requirement(text)
        version = pinned.get(wanted.name.lower().replace("_", "-"))
        assert version is not None, f"deploy/constraints.txt does not say which {wanted.name}"
        assert wanted.specifier.contains(version), f"{wanted} is not {version}"


def _contents(tree: Path) -> dict[str, tuple[bytes, float]]:
    files = (path for path in sorted(tree.rglob("*")) if path.is_file())
    return {path.relative_to(tree).as_posix(): (path.read_bytes(), path.stat().st_mtime) for path in files}
