"""From a store to a catalog: every variant that is sound, has passed its self-test and fits is made ready."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from model_store.imaging import UInt8Array
from model_store.manifest import Precision, TaskManifest, VariantManifest, is_variant_id
from model_store.opening import Openings, check_fit, open_variant
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
from service.residency import TOO_LARGE, OnDemand, Residency, held
from service.self_test import Tested

log = logging.getLogger(__name__)

_NOTHING = Tested({})
_UNKNOWN: Mapping[str, Quantiles] = {}

_Opened = OnnxSession | OnnxDetector | OnDemand[Any]


def load_catalog(
    store: ModelStore,
    threads: int = 1,
    tested: Tested = _NOTHING,
    residency: Residency | None = None,
    measured: Mapping[str, Quantiles] = _UNKNOWN,
    cpus: Sequence[int] = (),
) -> Catalog:
    """Loads and warms every sound variant; seconds of work, none of it on the event loop.

    `threads` is what one picture may use when all workers are idle, each on one of the `cpus` if there are
    any, unless `measured`, the times of plans by their keys, tells that it is not worthwhile. What `tested`
    says to fail is not touched. With a residency each variant has been in memory once, and not all are.
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
        if manifest.head == "detection" and detectors:
            first = detectors[0].manifest.task
            refused.extend(
                _second(store, name, f"the detectors of {first} are used; remove one of the tasks")
            )
            continue
        loaded = list(_load_variants(store, manifest, tested, refused, residency))
        if manifest.head == "detection":
            detectors = _detectors(loaded)
        else:
            variants = _ranked(loaded, manifest, tested)
            plans = tuple(_plans(store, manifest, variants, threads, measured, cpus))
            tasks[name] = TaskCatalog(manifest, labels, synsets, variants, plans)
    for r in refused:
        log.error("variant %s of %s is refused: %s", r.id, r.task, r.problem)
    return Catalog(tasks, tuple(refused), detectors)


def _second(store: ModelStore, task: str, problem: str) -> list[RefusedVariant]:
    return [RefusedVariant(task, v.id, problem, v.manifest) for v in store.variants(task)]


def _load_variants(
    store: ModelStore,
    task: TaskManifest,
    tested: Tested,
    refused: list[RefusedVariant],
    residency: Residency | None,
) -> Iterator[tuple[VariantManifest, _Opened]]:
    loader = _Loader(store, task, residency)
    for found in store.variants(task.name):
        if not is_variant_id(found.id):
            log.warning("%s of %s is no variant and is passed over: %s", found.id, task.name, found.problem)
            continue
        if problem := tested.problem(task.name, found.id):
            refused.append(RefusedVariant(task.name, found.id, problem, found.manifest))
            continue
        try:
            manifest, session = loader.load(found)
        except (StoreError, ModelUnusable) as error:
            refused.append(RefusedVariant(task.name, found.id, str(error), found.manifest))
        else:
            yield manifest, session


class _Loader:
    """Of one task's variants, those whose models are the same with one session."""

    def __init__(self, store: ModelStore, task: TaskManifest, residency: Residency | None) -> None:
        self._store, self._task, self._residency = store, task, residency
        self._openings = Openings(store, task)
        self._on_demand: dict[str, OnDemand[Any]] = {}  # by their models' sha256

    def load(self, found: StoredVariant) -> tuple[VariantManifest, _Opened]:
        """Raises StoreError and ModelUnusable."""
        if self._residency is None or found.manifest is None:
            manifest, session = self._openings.open(found.id)
            session.run(_grey(manifest.resolution))
            return manifest, session
        return found.manifest, self._load_on_demand(self._residency, found.manifest, found.size_bytes)

    def _load_on_demand(
        self, residency: Residency, manifest: VariantManifest, file_bytes: int
    ) -> OnDemand[Any]:
        """Has been in memory once."""
        known = self._on_demand.get(manifest.sha256)
        if known is not None:
            self._join(known, manifest)
            return known
        variants = [manifest]
        session: OnDemand[Any] = OnDemand(
            residency, variants, file_bytes, partial(_open_any, self._store, self._task, variants)
        )
        if not residency.fits(session):  # to try it could end the process
            raise ModelUnusable(TOO_LARGE)
        residency.take([session])
        residency.give_back([session])
        self._on_demand[manifest.sha256] = session
        return session

    def _join(self, session: OnDemand[Any], manifest: VariantManifest) -> None:
        """One more variant that the session runs."""
        self._store.open(self._task.name, manifest.id)  # its own file has to be sound too
        session.residency.take([session])
        try:
            opened = cast(OnnxSession | OnnxDetector, held(session))
            check_fit(opened, manifest, self._task)
            opened.run(_grey(manifest.resolution))
        finally:
            session.residency.give_back([session])
        session.variants.append(manifest)


def _open_any(
    store: ModelStore, task: TaskManifest, variants: Sequence[VariantManifest]
) -> OnnxSession | OnnxDetector:
    """Of variants whose models are the same, the first whose file still holds it."""
    *others, last = variants
    for expected in others:
        try:
            return _open_again(store, task, expected)
        except (StoreError, ModelUnusable) as error:
            log.warning(
                "%s of %s cannot be loaded again, so a variant of the same model is tried: %s",
                expected.id,
                task.name,
                error,
            )
    return _open_again(store, task, last)


def _open_again(
    store: ModelStore, task: TaskManifest, expected: VariantManifest
) -> OnnxSession | OnnxDetector:
    manifest, session = open_variant(store, task, expected.id)
    if manifest.sha256 != expected.sha256:
        raise ModelUnusable(f"{expected.id} of {task.name} was replaced; the next start takes the new one")
    session.run(_grey(manifest.resolution))
    return session


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
    cpus: Sequence[int],
) -> Iterator[Plan]:
    """Of each variant one with one thread; and one with all `threads` of those that are the most accurate
    model of their precision, at all its resolutions. Others fit most budgets with one thread, and the runtime
    packs the weights of each session anew: it costs its size again (24 MiB for alpha 1.0 in fp32).
    """
    best: dict[Precision, str] = {}
    openings = Openings(store, task, threads, cpus[1:])  # the first one is the caller's
    for variant in variants:
        plan = Plan(variant, variant.session)
        yield plan
        model = variant.manifest.sha256
        is_best = best.setdefault(variant.manifest.precision, model) == model
        if threads > 1 and is_best and not _too_slow(plan, threads, measured):
            try:
                manifest, session = openings.open(variant.id)
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
