"""From a store to a catalog: every variant that is sound, has passed its self-test and fits is made ready."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from model_store.imaging import UInt8Array
from model_store.manifest import TaskManifest, VariantManifest, is_variant_id
from model_store.opening import open_variant
from model_store.profile import Quantiles
from model_store.ranking import expected_accuracies
from model_store.runtime import ModelUnusable, OnnxDetector, OnnxSession
from model_store.store import ModelStore, StoredVariant, StoreError
from service.catalog import (
    Catalog,
    LoadedDetector,
    LoadedVariant,
    Plan,
    RefusedVariant,
    TaskCatalog,
    worthwhile,
)
from service.residency import TOO_LARGE, OnDemand, Residency
from service.self_test import Tested

log = logging.getLogger(__name__)

# So many of a task's variants, the most accurate, may use several threads for one picture: smaller ones fit
# most budgets with one. The runtime packs the weights for each session anew, so that each costs its size
# again (24 MiB for alpha 1.0).
_PARALLEL_VARIANTS = 1
_NOTHING = Tested({})
_UNKNOWN: Mapping[str, Quantiles] = {}

_Opened = OnnxSession | OnnxDetector | OnDemand[Any]


def load_catalog(
    store: ModelStore,
    threads: int = 1,
    tested: Tested = _NOTHING,
    residency: Residency | None = None,
    measured: Mapping[str, Quantiles] = _UNKNOWN,
) -> Catalog:
    """Loads and warms every sound variant; seconds of work, none of it on the event loop.

    `threads` is what one picture may use when all workers are idle, unless `measured`, the times of plans by
    their keys, tells that it is not worthwhile. What `tested` says to fail is not touched. With a residency
    each variant has been in memory once, and not all are.
    """
    tasks: dict[str, TaskCatalog] = {}
    refused: list[RefusedVariant] = []
    detectors: tuple[LoadedDetector, ...] = ()
    for name in store.tasks():
        try:
            manifest = store.task(name)
            labels, synsets = store.labels(manifest), store.synsets(manifest)
        except StoreError as error:
            log.error("task %s is left out: %s", name, error)
            continue
        loaded = list(_load_variants(store, manifest, tested, refused, residency))
        if manifest.head == "detection":
            detectors = _detectors(loaded)
        else:
            variants = _ranked(loaded, manifest, tested)
            plans = tuple(_plans(store, manifest, variants, threads, measured))
            tasks[name] = TaskCatalog(manifest, labels, synsets, variants, plans)
    for r in refused:
        log.error("variant %s of %s is refused: %s", r.id, r.task, r.problem)
    return Catalog(tasks, tuple(refused), detectors)


def _load_variants(
    store: ModelStore,
    task: TaskManifest,
    tested: Tested,
    refused: list[RefusedVariant],
    residency: Residency | None,
) -> Iterator[tuple[VariantManifest, _Opened]]:
    for found in store.variants(task.name):
        if not is_variant_id(found.id):
            log.warning("%s of %s is no variant and is passed over: %s", found.id, task.name, found.problem)
            continue
        if problem := tested.problem(task.name, found.id):
            refused.append(RefusedVariant(task.name, found.id, problem, found.manifest))
            continue
        try:
            manifest, session = _load(store, task, found, residency)
        except (StoreError, ModelUnusable) as error:
            refused.append(RefusedVariant(task.name, found.id, str(error), found.manifest))
        else:
            yield manifest, session


def _load(
    store: ModelStore, task: TaskManifest, found: StoredVariant, residency: Residency | None
) -> tuple[VariantManifest, _Opened]:
    if residency is None or found.manifest is None:
        return _open_warm(store, task, found.id)

    def open_again(expected: VariantManifest) -> OnnxSession | OnnxDetector:
        manifest, session = _open_warm(store, task, expected.id)
        if manifest.sha256 != expected.sha256:
            raise ModelUnusable(
                f"{expected.id} of {task.name} was replaced; the next start takes the new one"
            )
        return session

    session: OnDemand[Any] = OnDemand(
        residency, found.manifest, found.size_bytes, partial(open_again, found.manifest)
    )
    if not residency.fits(session):  # to try it could end the process
        raise ModelUnusable(TOO_LARGE)
    residency.take([session])
    residency.give_back([session])
    return found.manifest, session


def _open_warm(
    store: ModelStore, task: TaskManifest, variant: str
) -> tuple[VariantManifest, OnnxSession | OnnxDetector]:
    manifest, session = open_variant(store, task, variant)
    session.run(_grey(manifest.resolution))
    return manifest, session


def _ranked(
    loaded: list[tuple[VariantManifest, _Opened]], task: TaskManifest, tested: Tested
) -> tuple[LoadedVariant, ...]:
    top1 = expected_accuracies([manifest for manifest, _ in loaded])
    variants = [
        LoadedVariant(manifest, session, top1[manifest.id], task.head, tested.barred(task.name, manifest.id))
        for manifest, session in loaded
        if not isinstance(session, OnnxDetector)
    ]
    return tuple(sorted(variants, key=lambda v: (-v.top1, v.manifest.mult_adds)))


def _detectors(
    loaded: list[tuple[VariantManifest, _Opened]],
) -> tuple[LoadedDetector, ...]:
    recall = expected_accuracies([manifest for manifest, _ in loaded])
    detectors = [
        LoadedDetector(manifest, session, recall[manifest.id])
        for manifest, session in loaded
        if not isinstance(session, OnnxSession)
    ]
    return tuple(sorted(detectors, key=lambda d: (-d.recall, d.manifest.mult_adds)))


def _plans(
    store: ModelStore,
    task: TaskManifest,
    variants: tuple[LoadedVariant, ...],
    threads: int,
    measured: Mapping[str, Quantiles],
) -> Iterator[Plan]:
    for i, variant in enumerate(variants):
        plan = Plan(variant, variant.session)
        yield plan
        if threads > 1 and i < _PARALLEL_VARIANTS and not _too_slow(plan, threads, measured):
            try:
                manifest, session = open_variant(store, task, variant.id, threads)
                session.run(_grey(manifest.resolution))
            except (StoreError, ModelUnusable) as error:  # as when it is replaced at this moment
                log.warning("%s runs with one thread only: %s", variant.key, error)
            else:
                if isinstance(session, OnnxSession):
                    yield Plan(variant, session, threads)


def _too_slow(plan: Plan, threads: int, measured: Mapping[str, Quantiles]) -> bool:
    """Whether so many threads are known not to be worthwhile. Where there are other providers it depends on
    what each makes of them."""
    one, several = measured.get(plan.key), measured.get(replace(plan, threads=threads).key)
    if one is None or several is None or plan.others(threads):
        return False
    return not worthwhile(one.p50, several.p50)


def _grey(resolution: int) -> UInt8Array:
    return np.full((1, resolution, resolution, 3), 128, np.uint8)
