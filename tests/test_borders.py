"""Arrows between the rooms go down only, and three libraries have one importer each."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]

# What serves may use of model_store: no importer, no download, no training reaches an edge image.
RUNNING_SIDE = {
    "architecture",
    "atomic",
    "boxes",
    "candidates",
    "detect",
    "device",
    "exif",
    "faces",
    "golden",
    "headers",
    "imaging",
    "jpeg",
    "manifest",
    "opening",
    "photo",
    "profile",
    "ranking",
    "resampling",
    "runtime",
    "sampling",
    "self_test",
    "sources",
    "ssd",
    "store",
}
PURE = {
    "model_store/architecture.py",
    "model_store/boxes.py",
    "model_store/exif.py",
    "model_store/faces.py",
    "model_store/headers.py",
    "model_store/sampling.py",
    "model_store/ssd.py",
    "model_store/training/ages.py",
    "model_store/training/metrics.py",
    "model_store/training/plan.py",
    "model_store/training/slicing.py",
    "model_store/training/split.py",
    "model_store/training/targets.py",
    "service/planner.py",
    "service/admission.py",
    "service/contention.py",
    "service/pairing.py",
    "service/pessimism.py",
    "service/sharing.py",
}
NO_CLOCK_NO_IO = {"time", "os", "pathlib", "threading", "asyncio", "socket", "random", "logging"}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level_imports(path: Path) -> set[str]:
    """What is imported when the file is."""
    nodes = ast.parse(path.read_text()).body
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def _package(name: str) -> dict[str, set[str]]:
    files = {path.relative_to(ROOT).as_posix(): set(_imports(path)) for path in (ROOT / name).rglob("*.py")}
    assert files
    return files


def _using(files: dict[str, set[str]], library: str) -> set[str]:
    return {
        path
        for path, names in files.items()
        if any(n == library or n.startswith(f"{library}.") for n in names)
    }


def test_the_model_store_knows_nothing_of_the_service() -> None:
    files = _package("model_store")
    for library in ("service", "fastapi", "starlette", "uvicorn", "bench", "tests"):
        assert not _using(files, library)


def test_the_service_uses_the_running_side_of_the_store_only() -> None:
    for path, names in _package("service").items():
        used = {n.split(".")[1] for n in names if n.startswith("model_store.")}
        assert used <= RUNNING_SIDE, path


def test_the_running_side_needs_no_library_that_only_builds() -> None:
    files = _package("model_store")
    for library in ("onnx", "h5py", "tflite", "google", "rich", "flatbuffers", "threadpoolctl"):
        users = {path.removeprefix("model_store/").removesuffix(".py") for path in _using(files, library)}
        assert not users & RUNNING_SIDE, library
    for name in RUNNING_SIDE:
        inner = {n.split(".")[1] for n in files[f"model_store/{name}.py"] if n.startswith("model_store.")}
        assert inner <= RUNNING_SIDE, name


def test_decoders_and_the_runtime_have_one_importer_each() -> None:
    files = _package("model_store") | _package("service")
    assert _using(files, "PIL") == {"model_store/imaging.py"}
    assert _using(files, "simplejpeg") == {"model_store/jpeg.py"}
    assert _using(files, "cykooz_resizer") == {"model_store/resampling.py"}
    assert _using(files, "onnxruntime") == {"model_store/runtime.py"}


def test_the_service_declares_what_it_imports() -> None:
    """What comes along with another dependency comes in any version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {Requirement(text).name for text in project["dependencies"]}
    imported = {name.partition(".")[0] for names in _package("service").values() for name in names}
    foreign = imported - sys.stdlib_module_names - {"service", "model_store"}
    assert {name.replace("_", "-") for name in foreign} <= declared


def test_only_training_knows_what_trains() -> None:
    files = _package("model_store") | _package("service")
    for library in ("torch", "matplotlib"):
        assert {
            path for path in _using(files, library) if not path.startswith("model_store/training/")
        } == set()
    assert not _using(files, "torch") & PURE
    # Only the command that trains opens the part of the room that needs torch, and only once it is run.
    heavy = {
        path.removesuffix(".py").replace("/", ".")
        for library in ("torch", "matplotlib", "model_store.training.loop", "model_store.training.curves")
        for path in _using(files, library)
    }
    outside = {path: names for path, names in files.items() if not path.startswith("model_store/training/")}
    assert {path for path, names in outside.items() if names & heavy} == {"model_store/train_commands.py"}
    assert not [n for n in _top_level_imports(ROOT / "model_store/train_commands.py") if n in heavy]


def test_only_routes_and_the_edge_of_the_app_know_fastapi() -> None:
    edge = {f"service/{name}.py" for name in ("app", "middleware", "responses", "server", "uploads")}
    users = _using(_package("service"), "fastapi") | _using(_package("service"), "starlette")
    assert {path for path in users if not path.startswith("service/routes/")} <= edge


def test_pure_cores_have_neither_clock_nor_files() -> None:
    for path in PURE:
        names = set(_imports(ROOT / path))
        assert not {n.split(".")[0] for n in names} & NO_CLOCK_NO_IO, path
