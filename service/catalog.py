"""The variants that are loaded now, task by task, best first."""

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

from model_store.candidates import fastest, open_agreeing
from model_store.manifest import Head, TaskManifest, VariantManifest
from model_store.profile import Quantiles
from model_store.runtime import (
    CPU,
    Detector,
    ModelUnusable,
    Session,
    accelerators,
)
from model_store.store import ModelStore, StoreError
from service.residency import OnDemand, on_demand, resident

log = logging.getLogger(__name__)

# Several threads may take so many times as long as one when they are measured, and be faster all the same: on
# a virtual machine it varies from second to second what two CPUs are worth.
_UNSURE = 1.1


@dataclass(frozen=True, slots=True, eq=False)
class LoadedVariant:
    """One variant, ready to run. `top1` ranks it among its task's variants (see `expected_accuracies`)."""

    manifest: VariantManifest
    session: Session
    top1: float
    head: Head = "classification"
    barred: frozenset[str] = frozenset()  # providers that failed the self-test

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def key(self) -> str:
        """Names the variant, on its provider, across tasks."""
        return _key(self.manifest, 1, self.session.provider)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedDetector:
    """A detector, ready to run. `recall` ranks it: the share of faces that it finds."""

    manifest: VariantManifest
    session: Detector
    recall: float

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def key(self) -> str:
        """As of `LoadedVariant`."""
        return _key(self.manifest, 1, self.session.provider)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A way to answer: a variant, with one thread or with all workers' threads for one picture.

    `needs` is what has to be brought into memory for it, and `key` names what is measured and learned. By one
    that `pairs`, one run may answer two requests: not where memory is short, nor on providers that compile a
    model for its shapes. They and `resolution`, in pixels, are found once: every request asks each plan."""

    variant: LoadedVariant
    session: Session
    threads: int = 1
    needs: tuple[OnDemand[object], ...] = field(init=False)
    key: str = field(init=False)
    resolution: int = field(init=False)
    pairs: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", on_demand(self.session))
        object.__setattr__(self, "key", self.key_on(self.session.provider))
        object.__setattr__(self, "resolution", self.variant.manifest.resolution)
        pairs = self.threads == 1 and self.session.provider == CPU and not self.needs
        object.__setattr__(self, "pairs", pairs)

    def key_on(self, provider: str) -> str:
        """The key that the plan would have on another provider."""
        return _key(self.variant.manifest, self.threads, provider)

    def on(self, provider: str, store: ModelStore, workers: int) -> "Plan | None":
        """The plan on another provider. None where that fails or answers otherwise, which is logged."""
        manifest = self.variant.manifest
        try:
            session = open_agreeing(
                store.open(manifest.task, manifest.id)[1],
                self.session,
                manifest.precision,
                provider,
                head=self.variant.head,
                resolution=manifest.resolution,
                threads=self.threads,
                callers=workers if self.threads == 1 else 1,
            )
        except (StoreError, ModelUnusable) as error:
            # As text: the error itself holds on to the frames that it came through, and they to sessions.
            log.warning("%s stays on %s: %s", self.key, self.session.provider, str(error))
            return None
        variant = replace(self.variant, session=session) if self.threads == 1 else self.variant
        return Plan(variant, session, self.threads)

    def others(self, workers: int) -> list[str]:
        """Providers that may run it in place of the CPU's; none for what comes and goes."""
        if self.needs:
            return []
        found = accelerators(workers if self.threads == 1 else 1)
        return [provider for provider in found if provider not in self.variant.barred]


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
    """Everything loaded from one store. Variants that cannot serve are named, the others serve.

    `detectors` are those of faces, the one that finds most first.
    """

    tasks: dict[str, TaskCatalog]
    refused: tuple[RefusedVariant, ...]
    detectors: tuple[LoadedDetector, ...] = ()

    def variants(self) -> list[LoadedVariant]:
        return [v for task in self.tasks.values() for v in task.variants]

    def everything(self) -> list[LoadedVariant | LoadedDetector]:
        """Networks and detectors."""
        return [*self.variants(), *self.detectors]

    def resident(self) -> int:
        """How many variants are in memory."""
        return sum(resident(each.session) is not None for each in self.everything())

    def plans(self) -> list[Plan]:
        return [plan for task in self.tasks.values() for plan in task.plans]

    def accelerated(self, store: ModelStore, inference: Mapping[str, Quantiles], workers: int) -> Self:
        """Each plan on the fastest provider, by what was measured of those that agree."""
        tasks = {}
        for name, task in self.tasks.items():
            plans = [_accelerated(plan, store, inference, workers) for plan in task.plans]
            loaded = {plan.variant.id: plan.variant for plan in plans if plan.threads == 1}
            tasks[name] = replace(
                task,
                variants=tuple(loaded[v.id] for v in task.variants),
                plans=tuple(replace(plan, variant=loaded[plan.variant.id]) for plan in plans),
            )
        return replace(self, tasks=tasks)

    def worthwhile(self, inference_ms: Mapping[str, float]) -> Self:
        """Without the plans whose several threads bring nothing, or no more speed than a more accurate
        variant has, by the time of each plan's key."""
        tasks = {
            name: replace(task, plans=tuple(_worth_keeping(task.plans, inference_ms)))
            for name, task in self.tasks.items()
        }
        return replace(self, tasks=tasks)

    def without(self, refused: Mapping[LoadedVariant | LoadedDetector, str]) -> Self:
        """Without these, for the reason given."""
        tasks = {
            name: replace(
                task,
                variants=tuple(v for v in task.variants if v not in refused),
                plans=tuple(p for p in task.plans if p.variant not in refused),
            )
            for name, task in self.tasks.items()
        }
        detectors = tuple(d for d in self.detectors if d not in refused)
        named = (RefusedVariant(v.manifest.task, v.id, why, v.manifest) for v, why in refused.items())
        return replace(self, tasks=tasks, detectors=detectors, refused=(*self.refused, *named))


def worthwhile(one_ms: float, several_ms: float) -> bool:
    """Whether several threads may bring anything: whether they do is learned as they run."""
    return several_ms <= one_ms * _UNSURE


def _worth_keeping(plans: Sequence[Plan], inference_ms: Mapping[str, float]) -> Iterator[Plan]:
    """Of a task's plans, in their order."""
    least = math.inf  # of more accurate variants
    for _, of_variant in itertools.groupby(plans, lambda plan: plan.variant):
        one, *several = of_variant
        yield one
        one_ms = fastest_ms = inference_ms[one.key]
        for plan in several:
            several_ms = inference_ms[plan.key]
            fastest_ms = min(fastest_ms, several_ms)
            if several_ms < least and worthwhile(one_ms, several_ms):
                yield plan
        least = min(least, fastest_ms)


def _accelerated(plan: Plan, store: ModelStore, inference: Mapping[str, Quantiles], workers: int) -> Plan:
    keys = {provider: plan.key_on(provider) for provider in (CPU, *plan.others(workers))}
    best = fastest({provider: inference[key] for provider, key in keys.items() if key in inference})
    return plan if best == CPU else plan.on(best, store, workers) or plan


def _key(manifest: VariantManifest, threads: int, provider: str) -> str:
    several = [f"{threads} threads"] if threads > 1 else []
    other = [provider] if provider != CPU else []
    return "/".join([manifest.task, manifest.id, *several, *other])
