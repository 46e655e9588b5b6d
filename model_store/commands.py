"""What each `model-store` command does; `cli.py` parses, this works and reports."""

import argparse
import sys

from model_store import build, published, tasks
from model_store import evaluate as evaluation
from model_store import profile as profiling
from model_store import pull as pulling
from model_store.cli_output import (
    accuracy_text,
    millions,
    origin_text,
    percent,
    print_json,
    print_table,
    printable,
)
from model_store.download import DownloadError
from model_store.evaluate import LabelsError
from model_store.manifest import TaskManifest, VariantManifest
from model_store.progress import track
from model_store.runtime import ModelUnusable, OnnxSession
from model_store.sources import (
    CHECKPOINTS_BY_NAME,
    DEFAULT_CHECKPOINTS,
    OFFICIAL_CHECKPOINTS,
    Checkpoint,
)
from model_store.store import ModelStore, StoredVariant, StoreError
from model_store.weights import WeightsError

# What a command may raise for the user to read; anything else is a bug and shows its traceback.
FAILURES = (DownloadError, LabelsError, ModelUnusable, OSError, StoreError, WeightsError)


def list_variants(store: ModelStore, options: argparse.Namespace) -> int:
    found = _variants(store, options.task)
    if options.json:
        print_json({"store": str(store.root), "variants": [_as_json(v) for v in found]})
        return 0
    if not found:
        print(f"The store {store.root} is empty; `model-store pull imagenet` fills it.")
        return 0
    print_table(
        [
            ("task", "left"), ("variant", "left"), ("M mult-adds", "right"),
            ("M parameters", "right"), ("top-1 %", "right"), ("MB", "right"), ("origin", "left"),
        ],
        [_row(v) for v in found],
    )  # fmt: skip
    _explain_tilde([v.manifest for v in found if v.manifest])
    return 0


def pull(store: ModelStore, options: argparse.Namespace) -> int:
    checkpoints = _checkpoints(options)
    if options.if_empty and any(v.manifest for v in store.variants(options.task)):
        print(f"The store {store.root} already has variants of {options.task}.")
        return 0
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    pulled = pulling.pull_official(store, checkpoints, base_url=options.base_url, say=say)
    _report_installed(list(pulled.variants), options, fallback=pulled.fallback)
    return 0


def import_file(store: ModelStore, options: argparse.Namespace) -> int:
    if not options.file.exists():
        raise WeightsError(f"there is no file {options.file}")
    if options.task not in tasks.TASKS:
        raise StoreError(f"unknown task {options.task!r}; known: {', '.join(tasks.TASKS)}")
    manifest = build.install_file(
        store,
        tasks.ensure_task(store, options.task),
        options.file,
        resolution=options.resolution,
        location=options.origin or options.file.name,
        licence=options.licence,
        dequantize=options.dequantize,
    )
    _report_installed([manifest], options)
    return 0


def quantize(store: ModelStore, options: argparse.Namespace) -> int:
    task = store.task(options.task)
    chosen = options.variants or build.float_variants(store, task.name)
    if not chosen:
        raise StoreError(f"{task.name} of the store {store.root} has no fp32 variants to quantise")
    if options.variants:
        chosen = _chosen(store, task.name, options.variants)
    _report_installed(_quantized(store, task, chosen), options)
    return 0


def _quantized(store: ModelStore, task: TaskManifest, variants: list[str]) -> list[VariantManifest]:
    installed = []
    with track("quantize", len(variants), unit="variants") as tracker:
        for variant in variants:
            installed.append(build.quantize_variant(store, task, variant))
            tracker.update(len(installed))
    return installed


def verify(store: ModelStore, options: argparse.Namespace) -> int:
    """Checks bytes against manifests, and that each variant runs; exit code 1 when one does not."""
    results: list[dict[str, object]] = []
    for v in _variants(store, options.task):
        try:
            _, session = _open(store, v.task, v.id)
            labels = len(store.labels(store.task(v.task)))
            if session.classes != labels:
                raise ModelUnusable(f"{session.classes} classes, but {labels} labels")
            problem = None
        except (StoreError, ModelUnusable) as error:
            problem = str(error).removeprefix(f"{v.id} of {v.task}: ")
        results.append({"task": v.task, "id": v.id, "ok": problem is None, "problem": problem})
    bad = [r for r in results if not r["ok"]]
    if options.json:
        print_json({"store": str(store.root), "ok": bool(results) and not bad, "variants": results})
    else:
        for r in results:
            name = printable(f"{r['task']}/{r['id']}")
            print(f"ok      {name}" if r["ok"] else f"REFUSED {name}: {printable(str(r['problem']))}")
    if not results:
        raise StoreError(f"the store {store.root} has no variants to verify")
    if bad:
        raise StoreError(f"{len(bad)} of {len(results)} variants refused")
    return 0


def evaluate(store: ModelStore, options: argparse.Namespace) -> int:
    task = store.task(options.task)
    pictures = evaluation.read_labels(options.images, task.classes)
    rows, reports = [], []
    for variant in _chosen(store, task.name, options.variant):
        manifest, session = _open(store, task.name, variant)
        trained = manifest.origin.trained_resolution
        below = trained is not None and manifest.resolution < trained
        done = 0
        with track(manifest.id, len(pictures), unit="pictures") as tracker:

            def on_picture(tracker=tracker) -> None:  # type: ignore[no-untyped-def]
                nonlocal done
                done += 1
                tracker.update(done)

            accuracy = evaluation.evaluate(
                session,
                manifest.resolution,
                task.preprocessing,
                pictures,
                dataset=options.dataset or options.images.resolve().name,
                note=f"evaluated below its training resolution of {trained}" if below else "",
                on_picture=on_picture,
            )
        if not options.dry_run:
            store.update(manifest.with_measured(accuracy))
        half = evaluation.half_interval(accuracy.top1, accuracy.pictures)
        rows.append(
            [
                manifest.id,
                percent(accuracy.top1),
                percent(half),
                percent(accuracy.top5),
                accuracy.note,
            ]
        )
        reports.append({"id": manifest.id, **accuracy.model_dump(), "top1_half_interval": half})
    if options.json:
        print_json({"task": task.name, "pictures": len(pictures), "variants": reports})
    else:
        print_table(
            [
                ("variant", "left"),
                ("top-1 %", "right"),
                ("±", "right"),
                ("top-5 %", "right"),
                ("", "left"),
            ],
            rows,
        )
        print(f"{len(pictures)} pictures; ± is half the 95 % confidence interval")
    return 0


def profile(store: ModelStore, options: argparse.Namespace) -> int:
    rows, reports = [], []
    variants = _variants(store, options.task)
    if not variants:
        raise StoreError(f"the store {store.root} has no variants to measure")
    with track("profile", len(variants), unit="variants") as tracker:
        for done, v in enumerate(variants):
            manifest, session = _open(store, v.task, v.id)
            times = profiling.measure_inference(session, manifest.resolution)
            rows.append([v.task, v.id, f"{times.p50:.2f}", f"{times.p95:.2f}"])
            reports.append({"task": v.task, "id": v.id, "latency_ms": times.model_dump()})
            tracker.update(done + 1)
    if options.json:
        print_json({"device": profiling.device_name(), "variants": reports})
    else:
        print(f"{profiling.device_name()}; one thread, one picture, decoding not included")
        print_table([("task", "left"), ("variant", "left"), ("p50 ms", "right"), ("p95 ms", "right")], rows)
    return 0


def table(store: ModelStore, options: argparse.Namespace) -> int:
    comparisons = list(published.compare())
    if options.json:
        keys = ("source", "subject", "quantity", "unit", "published", "computed", "reason")
        print_json([{**{k: getattr(c, k) for k in keys}, "agrees": c.agrees} for c in comparisons])
        return 0
    rows = []
    for c in comparisons:
        computed = f"{c.computed:.{c.digits + 1}f}"
        note = "" if c.agrees else f"DISAGREES: {c.reason}"
        rows.append(
            [
                c.source,
                c.subject,
                f"{c.quantity}, {c.unit}",
                f"{c.published:.{c.digits}f}",
                computed,
                note,
            ]
        )
    print_table(
        [
            ("source", "left"), ("network or layer", "left"), ("quantity", "left"),
            ("published", "right"), ("computed", "right"), ("", "left"),
        ],
        rows,
    )  # fmt: skip
    apart = sum(not c.agrees for c in comparisons)
    print(f"{len(comparisons)} figures, {len(comparisons) - apart} agree to one unit of the last digit")
    return 0


def _checkpoints(options: argparse.Namespace) -> list[Checkpoint]:
    if options.all and options.checkpoints:
        raise StoreError("name checkpoints, or give --all; not both")
    if options.all:
        return [c for c in OFFICIAL_CHECKPOINTS if not c.quantized]
    unknown = [name for name in options.checkpoints if name not in CHECKPOINTS_BY_NAME]
    if unknown:
        known = ", ".join(c.name for c in OFFICIAL_CHECKPOINTS if not c.quantized)
        raise StoreError(f"no checkpoint {unknown[0]!r}; known: {known}, and each with _quant")
    return [CHECKPOINTS_BY_NAME[name] for name in options.checkpoints or DEFAULT_CHECKPOINTS]


def _variants(store: ModelStore, task: str | None) -> list[StoredVariant]:
    if task is not None:
        store.task(task)  # says which tasks there are
    return store.variants(task)


def _chosen(store: ModelStore, task: str, wanted: list[str] | None) -> list[str]:
    known = [v.id for v in store.variants(task)]
    unknown = [name for name in wanted or [] if name not in known]
    if unknown:
        raise StoreError(f"no variant {unknown[0]!r} of {task}; the store has: {', '.join(known) or 'none'}")
    if not known:
        raise StoreError(f"{task} of the store {store.root} has no variants to measure")
    return wanted or known


def _open(store: ModelStore, task: str, variant: str) -> tuple[VariantManifest, OnnxSession]:
    manifest, model = store.open(task, variant)
    try:
        return manifest, OnnxSession(model)
    except ModelUnusable as error:
        raise ModelUnusable(f"{variant} of {task}: {error}") from error


def _row(v: StoredVariant) -> list[str]:
    if v.manifest is None:
        return [v.task, v.id, "-", "-", "-", "-", f"REFUSED: {v.problem}"]
    m = v.manifest
    size = (v.path / "1" / "model.onnx").stat().st_size / 1e6
    return [
        v.task, v.id, millions(m.mult_adds), millions(m.parameters), accuracy_text(m.accuracy),
        f"{size:.1f}", origin_text(m),
    ]  # fmt: skip


def _as_json(v: StoredVariant) -> dict[str, object]:
    if v.manifest is None:
        return {"task": v.task, "id": v.id, "problem": v.problem}
    return v.manifest.model_dump(mode="json")


def _report_installed(
    manifests: list[VariantManifest], options: argparse.Namespace, *, fallback: bool = False
) -> None:
    if options.json:
        installed = [m.model_dump(mode="json") for m in manifests]
        print_json({"installed": installed, "fallback": fallback})
        return
    for m in manifests:
        top1 = f", top-1 {accuracy_text(m.accuracy)} %" if m.accuracy else ""
        print(f"installed {m.task}/{m.id}{top1} ({origin_text(m)})")
    _explain_tilde(manifests)


def _explain_tilde(manifests: list[VariantManifest]) -> None:
    if any(m.accuracy and m.accuracy.source == "measured" for m in manifests):
        print("~ measured on a set of its own, not the published figure (see --json)")
