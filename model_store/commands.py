"""What the `model-store` commands do that look at a store; `cli.py` parses, this works and reports.

Those that fill it are in `fill_commands.py`, those that carry variants to others in `delivery_commands.py`,
those that train in `train_commands.py`.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import cast

from model_store import evaluate as evaluation
from model_store import evaluate_faces, published, self_test
from model_store import profile as profiling
from model_store.candidates import open_agreeing
from model_store.cli_output import (
    accuracy_text,
    explain_tilde,
    millions,
    origin_text,
    percent,
    print_face_metrics,
    print_json,
    print_table,
    printable,
)
from model_store.download import DownloadError
from model_store.evaluate import LabelsError
from model_store.manifest import TaskManifest, VariantManifest
from model_store.opening import open_variant
from model_store.profile import Quantiles
from model_store.progress import track
from model_store.runtime import CPU, ModelUnusable, OnnxDetector, OnnxSession, accelerators
from model_store.self_test import Subject
from model_store.store import ModelStore, StoredVariant, StoreError
from model_store.training.labels import DataError
from model_store.weights import WeightsError

# What a command may raise for the user to read; anything else is a bug and shows its traceback.
FAILURES = (DataError, DownloadError, LabelsError, ModelUnusable, OSError, StoreError, WeightsError)


class UsageError(Exception):
    """Options that do not fit together, or name what there never is: nothing was tried."""


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
    explain_tilde([v.manifest for v in found if v.manifest])
    return 0


def verify(store: ModelStore, options: argparse.Namespace) -> int:
    """Checks bytes against manifests, and in a child process how each variant answers; exit code 1 when one
    cannot be used."""
    results: list[dict[str, object]] = []
    subjects = [Subject(v.task, v.id) for v in _variants(store, options.task)]
    for v, verdict in self_test.run(store.root, subjects):
        ok = verdict.outcome == "passed"
        problem = None if ok else verdict.problem.removeprefix(f"{v.variant} of {v.task}: ")
        results.append({"task": v.task, "id": v.variant, "ok": ok, "problem": problem})
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
    if task.head == "detection":
        raise LabelsError(f"{task.name} answers boxes, which are not evaluated; see bench/detection.py")
    if task.head == "attributes":
        return _evaluate_faces(store, task, options)
    pictures = evaluation.read_labels(options.images, task.classes)
    wanted = chosen(store, task.name, options.variant)
    rows, reports = [], []
    refused: list[str] = []
    for manifest, session in _opened(store, task, wanted, refused):
        trained = manifest.origin.trained_resolution
        below = trained is not None and manifest.resolution < trained
        done = 0
        with track(manifest.id, len(pictures), unit="pictures") as tracker:

            def on_picture(tracker=tracker) -> None:  # type: ignore[no-untyped-def]
                nonlocal done
                done += 1
                tracker.update(done)

            accuracy = evaluation.evaluate(
                cast(OnnxSession, session),  # which the task's head says
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
    elif rows:
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
    return _ended(refused, len(wanted))


def _evaluate_faces(store: ModelStore, task: TaskManifest, options: argparse.Namespace) -> int:
    wanted = chosen(store, task.name, options.variant)
    pictures = evaluate_faces.validation_files(options.images, evaluate_faces.SEED)
    found = {}
    refused: list[str] = []
    for manifest, session in _opened(store, task, wanted, refused):
        with track(manifest.id, len(pictures), unit="pictures") as tracker:
            metrics = evaluate_faces.evaluate(
                cast(OnnxSession, session),  # which the task's head says
                manifest.resolution,
                task.preprocessing,
                pictures,
                on_picture=tracker.update,
            )
        if not options.dry_run:
            dataset = options.dataset or evaluate_faces.DATASET
            store.update(manifest.with_measured(evaluate_faces.accuracy_of(metrics, dataset)))
        found[manifest.id] = metrics
    if options.json:
        reports = [{"id": variant, **metrics.as_dict()} for variant, metrics in found.items()]
        print_json({"task": task.name, "pictures": len(pictures), "variants": reports})
    elif found:
        print_face_metrics({(variant,): metrics for variant, metrics in found.items()}, ("variant",))
    return _ended(refused, len(wanted))


def profile(store: ModelStore, options: argparse.Namespace) -> int:
    rows, reports = [], []
    refused: list[str] = []
    variants = _variants(store, options.task)
    if not variants:
        raise StoreError(f"the store {store.root} has no variants to measure")
    with track("profile", len(variants), unit="variants") as tracker:
        for done, v in enumerate(variants):
            try:
                for provider, times in _times(store, v):
                    rows.append([v.task, v.id, provider, f"{times.p50:.2f}", f"{times.p95:.2f}"])
                    latency = times.model_dump()
                    reports.append({"task": v.task, "id": v.id, "provider": provider, "latency_ms": latency})
            except (ModelUnusable, StoreError) as error:
                refused.append(str(error))
            tracker.update(done + 1)
    if options.json:
        print_json({"device": profiling.device_name(), "variants": reports})
    elif rows:
        print(f"{profiling.device_name()}; one thread, one picture, decoding not included")
        columns = [("task", "left"), ("variant", "left"), ("provider", "left")]
        print_table([*columns, ("p50 ms", "right"), ("p95 ms", "right")], rows)
    return _ended(refused, len(variants))


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


def _variants(store: ModelStore, task: str | None) -> list[StoredVariant]:
    if task is not None:
        store.task(task)  # says which tasks there are
    return store.variants(task)


def chosen(store: ModelStore, task: str, wanted: list[str] | None) -> list[str]:
    """Those of `wanted`, or all of the task; raises StoreError for one that the store has not."""
    known = [v.id for v in store.variants(task)]
    unknown = [name for name in wanted or [] if name not in known]
    if unknown:
        raise StoreError(f"no variant {unknown[0]!r} of {task}; the store has: {', '.join(known) or 'none'}")
    if not known:
        raise StoreError(f"{task} of the store {store.root} has no variants to measure")
    return wanted or known


def _opened(
    store: ModelStore, task: TaskManifest, variants: list[str], refused: list[str]
) -> Iterator[tuple[VariantManifest, OnnxSession | OnnxDetector]]:
    """Those that can be; why the others cannot goes to `refused`."""
    for variant in variants:
        try:
            opened = open_variant(store, task, variant)
        except (ModelUnusable, StoreError) as error:
            refused.append(str(error))
        else:
            yield opened


def _ended(refused: list[str], count: int) -> int:
    """The exit code of a command that went on without those of its variants that are refused. Raises
    StoreError where there are any."""
    for problem in refused:
        print(printable(problem), file=sys.stderr)
    if refused:
        raise StoreError(f"{len(refused)} of {count} variants refused")
    return 0


def _times(store: ModelStore, v: StoredVariant) -> Iterator[tuple[str, Quantiles]]:
    """Of one variant: by the CPU provider, and by the others that are installed and agree with it."""
    task = store.task(v.task)
    manifest, reference = open_variant(store, task, v.id)
    yield CPU, profiling.measure_inference([reference], manifest.resolution)[0]
    if not isinstance(reference, OnnxSession):
        return
    for provider in accelerators():
        model = store.open(v.task, v.id)[1]
        try:
            session = open_agreeing(
                model, reference, manifest.precision, provider,
                head=task.head, resolution=manifest.resolution,
            )  # fmt: skip
        except ModelUnusable as error:
            print(f"{v.task}/{v.id}: {error}", file=sys.stderr)
        else:
            yield provider, profiling.measure_inference([session], manifest.resolution)[0]


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
