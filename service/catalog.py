"""The variants that are loaded now, task by task, best first."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from model_store.imaging import UInt8Array
from model_store.manifest import TaskManifest, VariantManifest, expected_top1, is_variant_id
from model_store.runtime import ModelUnusable, OnnxSession, Session
from model_store.store import ModelStore, StoreError

log = logging.getLogger(__name__)

# So many of a task's variants, the most accurate, may use several threads for one picture: smaller ones fit
# most budgets with one. The runtime packs the weights for each session anew, so that each costs its size
# again (24 MiB for alpha 1.0).
_PARALLEL_VARIANTS = 1
_LEAST_SPEEDUP = 1.25  # of several threads, to be worth all workers


@dataclass(frozen=True, slots=True, eq=False)
class LoadedVariant:
    """One variant, ready to run. `top1` ranks it among its task's variants (see `expected_top1`)."""

    manifest: VariantManifest
    session: Session
    top1: float

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def key(self) -> str:
        """Names the variant across tasks."""
        return f"{self.manifest.task}/{self.manifest.id}"


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A way to answer: a variant, with one thread or with all workers' threads for one picture."""

    variant: LoadedVariant
    session: Session
    threads: int = 1

    @property
    def key(self) -> str:
        """Names what is measured and learned."""
        return self.variant.key if self.threads == 1 else f"{self.variant.key}/{self.threads} threads"


@dataclass(frozen=True, slots=True)
class RefusedVariant:
    """A variant that the store has and that cannot serve, with the reason."""

    task: str
    id: str
    problem: str
    manifest: VariantManifest | None


@dataclass(frozen=True, eq=False)
class TaskCatalog:
    """A task's manifest, labels, and loaded variants: most accurate first, the cheaper of equals first.

    `plans` are in the same order, of each variant the one with one thread first.
    """

    manifest: TaskManifest
    labels: list[str]
    synsets: list[str] | None
    variants: tuple[LoadedVariant, ...]
    plans: tuple[Plan, ...]

    @cached_property
    def top1(self) -> tuple[float, ...]:
        """Of each plan."""
        return tuple(plan.variant.top1 for plan in self.plans)

    def find(self, variant: str) -> LoadedVariant | None:
        return next((v for v in self.variants if v.id == variant), None)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything loaded from one store. Variants that cannot serve are named, the others serve."""

    tasks: dict[str, TaskCatalog]
    refused: tuple[RefusedVariant, ...]

    @classmethod
    def load(cls, store: ModelStore, threads: int = 1) -> Self:
        """Loads and warms every sound variant; seconds of work, none of it on the event loop.

        `threads` is what one picture may use when all workers are idle.
        """
        tasks: dict[str, TaskCatalog] = {}
        refused: list[RefusedVariant] = []
        for name in store.tasks():
            try:
                manifest = store.task(name)
                labels, synsets = store.labels(manifest), store.synsets(manifest)
            except StoreError as error:
                log.error("task %s is left out: %s", name, error)
                continue
            if manifest.head != "classification":
                log.info("task %s is passed over: no endpoint answers it by itself", name)
                continue
            variants = _ranked(list(_load_variants(store, name, len(labels), refused)))
            plans = tuple(_plans(store, variants, threads))
            tasks[name] = TaskCatalog(manifest, labels, synsets, variants, plans)
        for r in refused:
            log.error("variant %s of %s is refused: %s", r.id, r.task, r.problem)
        return cls(tasks, tuple(refused))

    def variants(self) -> list[LoadedVariant]:
        return [v for task in self.tasks.values() for v in task.variants]

    def plans(self) -> list[Plan]:
        return [plan for task in self.tasks.values() for plan in task.plans]

    def worthwhile(self, inference_ms: Mapping[str, float]) -> Self:
        """Without the plans whose several threads bring too little, by the time of each plan's key."""

        def keeps(plan: Plan) -> bool:
            limit = inference_ms[plan.variant.key] / _LEAST_SPEEDUP
            return plan.threads == 1 or inference_ms[plan.key] <= limit

        tasks = {
            name: replace(task, plans=tuple(filter(keeps, task.plans))) for name, task in self.tasks.items()
        }
        return replace(self, tasks=tasks)


def _load_variants(
    store: ModelStore, task: str, classes: int, refused: list[RefusedVariant]
) -> Iterator[tuple[VariantManifest, Session]]:
    for found in store.variants(task):
        if not is_variant_id(found.id):
            log.warning("%s of %s is no variant and is passed over: %s", found.id, task, found.problem)
            continue
        try:
            manifest, model = store.open(task, found.id)
            session = OnnxSession(model)
            if session.classes != classes or session.resolution != manifest.resolution:
                raise ModelUnusable("the model's shapes are not those of its manifest and labels")
            session.run(_grey(manifest.resolution))
        except (StoreError, ModelUnusable) as error:
            refused.append(RefusedVariant(task, found.id, str(error), found.manifest))
        else:
            yield manifest, session


def _ranked(loaded: list[tuple[VariantManifest, Session]]) -> tuple[LoadedVariant, ...]:
    top1 = expected_top1([manifest for manifest, _ in loaded])
    variants = [LoadedVariant(manifest, session, top1[manifest.id]) for manifest, session in loaded]
    return tuple(sorted(variants, key=lambda v: (-v.top1, v.manifest.mult_adds)))


def _plans(store: ModelStore, variants: tuple[LoadedVariant, ...], threads: int) -> Iterator[Plan]:
    for i, variant in enumerate(variants):
        yield Plan(variant, variant.session)
        if threads > 1 and i < _PARALLEL_VARIANTS:
            manifest = variant.manifest
            try:
                session = OnnxSession(store.open(manifest.task, manifest.id)[1], threads)
                session.run(_grey(manifest.resolution))
            except (StoreError, ModelUnusable) as error:  # as when it is replaced at this moment
                log.warning("%s runs with one thread only: %s", variant.key, error)
            else:
                yield Plan(variant, session, threads)


def _grey(resolution: int) -> UInt8Array:
    return np.full((1, resolution, resolution, 3), 128, np.uint8)
