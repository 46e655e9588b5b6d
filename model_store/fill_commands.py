"""The commands that fill a store: `pull`, `import` and `quantize`."""

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from model_store import build, shipped, tasks
from model_store import pull as pulling
from model_store.cli_output import accuracy_text, explain_tilde, origin_text, print_json
from model_store.commands import UsageError, chosen
from model_store.download import DownloadError
from model_store.manifest import TaskManifest, VariantManifest
from model_store.progress import track
from model_store.pull_detectors import pull_detectors
from model_store.sources import (
    CHECKPOINTS_BY_NAME,
    DEFAULT_CHECKPOINTS,
    OFFICIAL_CHECKPOINTS,
    Checkpoint,
)
from model_store.store import ModelStore, StoreError, VariantCorrupt
from model_store.weights import WeightsError

_WITHOUT_DETECTOR = (
    "Attributes and ages are installed; without a detector they serve faces=cropped: pictures that are one "
    "aligned face each"
)


def pull(store: ModelStore, options: argparse.Namespace) -> int:
    checkpoints = _checkpoints(options)
    needed = [tasks.FACES.name, tasks.FACE_DETECTION.name] if options.task == "faces" else [options.task]
    if options.if_empty and all(_has_sound(store, task) for task in needed):
        print(f"The store {store.root} already has variants of {' and '.join(needed)}.")
        return 0
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    if options.task == "faces":
        _pull_faces(store, options, say)
        return 0
    # Who asks for others than the fallback has is not served by it.
    fallback = not options.all and options.checkpoints in ([], [pulling.FALLBACK_CHECKPOINT])
    pulled = pulling.pull_official(store, checkpoints, base_url=options.base_url, say=say, fallback=fallback)
    _report_installed(list(pulled.variants), options, fallback=pulled.fallback)
    return 0


def _has_sound(store: ModelStore, task: str) -> bool:
    """Whether a variant of the task has the bytes that its manifest says."""
    for v in store.variants(task):
        with suppress(VariantCorrupt):
            store.open(task, v.id)
            return True
    return False


def _pull_faces(store: ModelStore, options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """The networks first: they are here, and serve aligned faces where the detector cannot be had."""
    networks = []
    with track("face networks", shipped.variant_count(), unit="variants") as tracker:
        for manifest in shipped.install(store):
            networks.append(manifest)
            tracker.update(len(networks))
    try:
        detectors = pull_detectors(store, say=say)
    except DownloadError as error:
        raise type(error)(f"{error}. {_WITHOUT_DETECTOR}") from error
    _report_installed([*networks, *detectors], options)


def import_file(store: ModelStore, options: argparse.Namespace) -> int:
    file, name = Path(options.file), options.task or "imagenet"
    if name not in tasks.TASKS:
        raise UsageError(f"unknown task {name!r}; known: {', '.join(tasks.TASKS)}")
    if not file.exists():
        raise WeightsError(f"there is no file {file}")
    manifest = build.install_file(
        store,
        store.task(name) if name in store.tasks() else tasks.TASKS[name],
        file,
        resolution=options.resolution,
        location=options.origin or file.name,
        licence=options.licence or "unknown",
        dequantize=options.dequantize,
    )
    tasks.ensure_task(store, name)  # after the variant, which may have been refused: no task without any
    _report_installed([manifest], options)
    return 0


def quantize(store: ModelStore, options: argparse.Namespace) -> int:
    task = store.task(options.task)
    if options.variants:
        wanted = chosen(store, task.name, options.variants)
    else:
        refused = build.refused_twins(store, task.name)
        wanted = [v for v in build.float_variants(store, task.name) if v not in refused]
        for variant, twin in refused.items():
            print(
                f"left {twin.id} of {task.name} as it is ({twin.problem}), since it may be of other origin; "
                f"`model-store quantize {variant}{_of(task)}` replaces it",
                file=sys.stderr,
            )
        if refused and not wanted:
            raise StoreError(f"{task.name} of the store {store.root} has nothing else to quantise")
    if not wanted:
        raise StoreError(f"{task.name} of the store {store.root} has no fp32 variants to quantise")
    _report_installed(_quantized(store, task, wanted), options)
    return 0


def _of(task: TaskManifest) -> str:
    return "" if task.name == tasks.IMAGENET.name else f" --task {task.name}"


def _quantized(store: ModelStore, task: TaskManifest, variants: list[str]) -> list[VariantManifest]:
    installed = []
    with track("quantize", len(variants), unit="variants") as tracker:
        for variant in variants:
            installed.append(build.quantize_variant(store, task, variant))
            tracker.update(len(installed))
    return installed


def _checkpoints(options: argparse.Namespace) -> list[Checkpoint]:
    if options.task == "faces" and options.checkpoints:
        raise UsageError("faces has no checkpoints to choose from: all of its networks come at once")
    if options.all and options.checkpoints:
        raise UsageError("name checkpoints, or give --all; not both")
    if options.all:
        return [c for c in OFFICIAL_CHECKPOINTS if not c.quantized]
    unknown = [name for name in options.checkpoints if name not in CHECKPOINTS_BY_NAME]
    if unknown:
        known = ", ".join(c.name for c in OFFICIAL_CHECKPOINTS if not c.quantized)
        raise UsageError(f"no checkpoint {unknown[0]!r}; known: {known}, and each with _quant")
    return [CHECKPOINTS_BY_NAME[name] for name in options.checkpoints or DEFAULT_CHECKPOINTS]


def _report_installed(
    manifests: list[VariantManifest], options: argparse.Namespace, *, fallback: bool = False
) -> None:
    if options.json:
        installed = [m.model_dump(mode="json") for m in manifests]
        print_json({"installed": installed, "fallback": fallback})
        return
    for m in manifests:
        accuracy = f", {m.accuracy.name} {accuracy_text(m.accuracy)} %" if m.accuracy else ""
        print(f"installed {m.task}/{m.id}{accuracy} ({origin_text(m)})")
    explain_tilde(manifests)
