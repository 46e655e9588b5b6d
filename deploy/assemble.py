"""The tree of Python packages that an image carries, put together on whatever machine builds it.

    python3 deploy/assemble.py --machine aarch64 --serving-only --into DIR [--extra build] PROJECT

Nothing of the target runs: its wheels are unpacked, so that an ARM64 image needs no emulation. The same
versions give the same bytes: files are dated SOURCE_DATE_EPOCH, and byte code holds no dates.
"""

import argparse
import ast
import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

# Which Linux a wheel may ask for: Debian 12 has glibc 2.36. pip takes each name as it is.
_GLIBC_MINORS = (36, 35, 34, 31, 28, 27, 26, 24, 17)
# What no program needs at run time.
_NEVER_USED = (
    "bin", "*.dist-info/direct_url.json", "*.dist-info/RECORD",
    "**/tests", "**/*.pyi", "**/*.pyx", "**/*.pxd", "**/*.h", "**/*.a",
    "numpy/f2py", "numpy/distutils", "numpy/_pyinstaller",
    "numpy/_core/*_tests.*.so", "numpy/_core/_simd.*.so",
)  # fmt: skip
# What serving never imports; `.ci/containers` runs everything that serving can do without it. Licences stay.
_NOT_SERVING = (
    "onnxruntime/tools", "onnxruntime/transformers", "onnxruntime/quantization", "onnxruntime/datasets",
    "onnxruntime/backend", "onnxruntime/capi/training", "flatbuffers", "google",
    "onnxruntime/capi/libonnxruntime.so*",  # for programs in C: Python's module has all of it again
    "PIL/_avif.*.so", "PIL/_imagingcms.*.so", "PIL/_imagingft.*.so", "PIL/_imagingtk.*.so",
    "pillow.libs/libavif*", "pillow.libs/liblcms2*", "pillow.libs/libfreetype*", "pillow.libs/libharfbuzz*",
    "pillow.libs/libpng*", "pillow.libs/libbrotli*",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("project", type=Path, help="the project's folder")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="an empty or absent folder")
    parser.add_argument("--machine", default="x86_64", choices=("x86_64", "aarch64", "amd64", "arm64"))
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    parser.add_argument("--extra", help="extras of the project, such as build,resize")
    parser.add_argument("--constraints", type=Path, help="versions, as pip's -c takes them")
    parser.add_argument("--serving-only", action="store_true", help="leave out what only fills a store")
    options = parser.parse_args()
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(options.machine, options.machine)
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(options.project, Path(folder))
        requirement = f"{wheel}[{options.extra}]" if options.extra else str(wheel)
        install(requirement, options.into, machine, options.python, options.constraints)
    remove(options.into, _NEVER_USED)
    if options.serving_only:
        remove(options.into, _NOT_SERVING)
        keep_what_serves(options.into)
    compile_all(options.into, options.python)
    date_all(options.into, int(os.environ["SOURCE_DATE_EPOCH"]))


def build_wheel(project: Path, folder: Path) -> Path:
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(project))
    return next(folder.glob("*.whl"))


def install(requirement: str, target: Path, machine: str, python: str, constraints: Path | None) -> None:
    """Wheels for `machine` and `python`, with dependencies, unpacked into `target`."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC_MINORS] + [f"manylinux2014_{machine}"]
    _pip(
        "install", "--target", str(target), "--no-compile", "--only-binary=:all:",
        "--implementation", "cp", "--python-version", python,
        *(argument for name in platforms for argument in ("--platform", name)),
        *(("--constraint", str(constraints)) if constraints else ()),
        requirement,
    )  # fmt: skip


def remove(site: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for path in list(site.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def keep_what_serves(site: Path) -> None:
    """Of `model_store`, what `service` reaches by its imports."""
    store = site / "model_store"
    reached: set[str] = set()
    new = {name for path in (site / "service").rglob("*.py") for name in _store_modules(path)}
    while new:
        reached |= new
        new = {n for module in new for n in _store_modules(store / f"{module}.py")} - reached
    for path in store.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix == ".py" and path.stem not in reached | {"__init__"}:
            path.unlink()


def _store_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "model_store":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("model_store."):
            yield (node.module or "").split(".")[1]


def compile_all(site: Path, python: str) -> None:
    """Byte code that is never compared with its source, since neither changes in an image."""
    if python != f"{sys.version_info.major}.{sys.version_info.minor}":
        return  # another Python's byte code: it makes its own at every start
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(site, quiet=2, invalidation_mode=unchecked, stripdir=str(site))


def date_all(site: Path, seconds: int) -> None:
    for path in [*site.rglob("*"), site]:
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
