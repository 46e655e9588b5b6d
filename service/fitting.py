"""What of a store is in memory, by the limit there is: all, all but second sessions, or some at a time."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from model_store.device import KEPT_BYTES, memory_limit_bytes, resident_bytes
from model_store.manifest import Precision
from model_store.store import ModelStore
from service.catalog import Catalog, LoadedDetector, LoadedVariant
from service.memory import MemoryBudget, session_bytes
from service.memory_guard import MemoryGuard
from service.metrics import Metrics
from service.residency import TOO_LARGE, OnDemand, Residency, on_demand
from service.settings import Settings

log = logging.getLogger(__name__)

# A pixel of what is decoded in full, at most (WebP; other types take 4 to 9): the file's canvas, a copy for
# Pillow, and RGB.
_BYTES_A_PIXEL = 16

Loaded = LoadedVariant | LoadedDetector


def limit_bytes(settings: Settings) -> int | None:
    """For all processes together; None without a limit."""
    return settings.memory_limit_mb << 20 or memory_limit_bytes()


@dataclass(frozen=True, slots=True)
class Fit:
    """`plan_threads` is what one picture may use, by a session of its own where it is several. With a
    `residency` not all variants fit. A thread keeps `kept_bytes` of freed memory, until the guard lets it go.
    `pixels_in_full` is for pictures that are decoded in full, so that each thread can hold one.
    """

    plan_threads: int
    queue_bytes: int
    kept_bytes: int = KEPT_BYTES
    guard: MemoryGuard | None = None
    residency: Residency | None = None
    pixels_in_full: int | None = None

    @classmethod
    def of(cls, settings: Settings, store: ModelStore, threads: int, metrics: Metrics) -> "Fit":
        """For `threads` workers of this process, which has no session yet."""
        limit = limit_bytes(settings)
        taken = resident_bytes()
        if limit is None or taken is None:
            return cls(threads, settings.queue_bytes)
        budget = MemoryBudget.of(limit, taken, threads + 1)  # and the one for those in a hurry
        all_bytes, second_bytes, largest_bytes = _needs(store)
        log.info(
            "memory: %d of %d MiB are taken, %d are for sessions, which need %d",
            taken >> 20, limit >> 20, budget.sessions >> 20, all_bytes >> 20,
        )  # fmt: skip
        guard, most = MemoryGuard(limit), settings.queue_bytes
        in_full = limit // (threads + 1) // _BYTES_A_PIXEL
        # Where all are there for good nothing is opened any more, and what they leave is for what waits.
        left = budget.queue + budget.sessions - all_bytes
        if budget.holds(all_bytes + second_bytes, largest_bytes):
            return cls(threads, min(most, left - second_bytes), budget.decoding, guard, None, in_full)
        if budget.holds(all_bytes, largest_bytes):
            return cls(1, min(most, left), budget.decoding, guard, None, in_full)
        return cls(1, min(most, budget.queue), budget.decoding, guard, Residency(budget, metrics), in_full)


def settle(catalog: Catalog, residency: Residency, inference_ms: Mapping[str, float]) -> Catalog:
    """Has in memory what is worth most, and refuses what would never fit beside what is always there."""
    always, order = first_residents(catalog, inference_ms)
    residency.settle(_sessions(always), _sessions(order))
    too_large = {each: TOO_LARGE for each in order if not all(map(residency.fits, on_demand(each.session)))}
    for each in too_large:
        log.error("%s is refused: %s", each.key, TOO_LARGE)
    return catalog.without(too_large)


def first_residents(catalog: Catalog, inference_ms: Mapping[str, float]) -> tuple[list[Loaded], list[Loaded]]:
    """Those that are always there, and all others in the order of their worth.

    Always: of each task, and of detectors, the fastest, which is what every budget can fall back on. First
    among the others are those of which none is as accurate and faster, of each task the most accurate, then
    of each the next.
    """
    groups: list[Sequence[Loaded]] = [*(task.variants for task in catalog.tasks.values()), catalog.detectors]
    groups = [group for group in groups if group]
    frontiers = [list(_frontier(group, inference_ms)) for group in groups]
    always = [frontier[-1] for frontier in frontiers]
    by_rank = chain.from_iterable(zip_longest(*frontiers))
    order = dict.fromkeys(each for each in (*by_rank, *chain.from_iterable(groups)) if each is not None)
    return always, [each for each in order if each not in always]


def _frontier(group: Sequence[Loaded], inference_ms: Mapping[str, float]) -> Iterator[Loaded]:
    """Of variants in the order of their accuracy; the fastest is the last."""
    least = float("inf")
    for each in group:
        if inference_ms[each.key] < least:
            least = inference_ms[each.key]
            yield each


def _needs(store: ModelStore) -> tuple[int, int, int]:
    """Bytes of all sessions, of the second ones with several threads at most (one of each precision of a
    task), and of the largest file."""
    all_bytes = second_bytes = largest_bytes = 0
    for task in store.tasks():
        variants = store.variants(task)
        # Variants of the same model share a session.
        models = {v.manifest.sha256 if v.manifest else v.id: v.size_bytes for v in variants}
        all_bytes += sum(map(session_bytes, models.values()))
        largest_bytes = max(largest_bytes, *models.values(), 0)
        of_precision: dict[Precision, int] = {}  # the largest
        for manifest, size in ((v.manifest, v.size_bytes) for v in variants if v.manifest):
            of_precision[manifest.precision] = max(size, of_precision.get(manifest.precision, 0))
        second_bytes += sum(map(session_bytes, of_precision.values()))
    return all_bytes, second_bytes, largest_bytes


def _sessions(loaded: Sequence[Loaded]) -> list[OnDemand[object]]:
    return [session for each in loaded for session in on_demand(each.session)]
