"""What the running service holds, from starting over ready to draining."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from model_store import profile as profiling
from model_store.device import (
    keep_freed_memory,
    lower_priority,
    own_cpus,
    release_memory,
    return_freed_memory,
    usable_cpus,
)
from model_store.imaging import FORMATS, decode, plain_picture
from model_store.manifest import Head, Preprocessing
from model_store.store import ModelStore
from service import errors
from service.catalog import Catalog, TaskCatalog
from service.dispatch import Dispatcher
from service.face_plans import FacePlans
from service.fitting import Fit, settle
from service.latency import LatencyEstimates
from service.loading import load_catalog
from service.measuring import device_profile
from service.memory_guard import MemoryGuard
from service.metrics import Metrics
from service.scheduler import WORKER_NICENESS, Scheduler
from service.self_test import tested
from service.settings import Settings

log = logging.getLogger(__name__)

IMAGENET, FACES = "imagenet", "faces"

Phase = Literal["starting", "ready", "draining", "failed"]


class Service:
    """The catalog and the scheduler, once they are there; `on_loaded` is called then, before it is ready."""

    def __init__(self, settings: Settings, on_loaded: Callable[[], object] = lambda: None) -> None:
        self.settings = settings
        self._on_loaded = on_loaded
        self.phase: Phase = "starting"
        self.metrics = Metrics()
        self._catalog: Catalog | None = None
        self._scheduler: Scheduler | None = None
        self._face_plans: FacePlans | None = None
        self._guard: MemoryGuard | None = None
        # Never more than may wait: a larger picture would be told to come again for ever.
        self.max_body_bytes = min(settings.max_body_bytes, settings.queue_bytes)
        self.max_pixels_in_full: int | None = None  # see `probe`

    @property
    def catalog(self) -> Catalog:
        """Raises NotReady while starting."""
        if self._catalog is None:
            raise _not_ready(self.phase)
        return self._catalog

    @property
    def scheduler(self) -> Scheduler:
        """Raises NotReady while starting."""
        if self._scheduler is None:
            raise _not_ready(self.phase)
        return self._scheduler

    def start(self) -> None:
        """Loads, measures and warms; blocks for seconds, so it runs off the event loop.

        On a thread of a worker's priority, which the threads of the runtime inherit.
        """
        threads = self.settings.threads or usable_cpus()
        try:
            with ThreadPoolExecutor(1, "start", lower_priority, (WORKER_NICENESS,)) as thread:
                catalog, scheduler = thread.submit(self._load, threads).result()
            self._on_loaded()
            scheduler.start()  # not on that thread, whose low priority all its threads would inherit
        except Exception:
            self.phase = "failed"
            log.exception("the service cannot start")
            raise
        self._scheduler, self._catalog = scheduler, catalog  # not before: it would take work and do none
        self._tell_ready(catalog, threads)

    def _load(self, threads: int) -> tuple[Catalog, Scheduler]:
        store = ModelStore(self.settings.store)
        tests = tested(store, self.settings.state_dir)
        fit = Fit.of(self.settings, store, threads, self.metrics)
        known = profiling.load(profiling.cache_path(self.settings.state_dir, store.digest()))
        measured = known.inference if known is not None else {}
        return_freed_memory()
        cpus = own_cpus(threads)
        catalog = load_catalog(store, fit.plan_threads, tests, fit.residency, measured, cpus)
        release_memory()  # the runtime's copies of the weights
        keep_freed_memory()  # from here on what is freed is a picture's
        profile = device_profile(catalog, store, threads, self.settings.state_dir, cpus)
        catalog = catalog.accelerated(store, profile.inference, threads)
        inference_ms = {key: times.p50 for key, times in profile.inference.items()}
        catalog = catalog.worthwhile(inference_ms)
        if fit.residency is not None:
            catalog = settle(catalog, fit.residency, inference_ms)
        keep_freed_memory(fit.kept_bytes)
        if fit.guard is not None:
            self._guard = fit.guard
            self._guard.start()
        release_memory()  # large pictures of the measurements, other providers, plans not worthwhile
        dispatcher = Dispatcher(
            LatencyEstimates(profile),
            threads,
            max_length=self.settings.queue_length,
            max_bytes=fit.queue_bytes,
            preempts=True,
        )
        self.max_body_bytes = min(self.max_body_bytes, fit.queue_bytes)
        self.max_pixels_in_full = fit.pixels_in_full
        _load_decoders()
        faces = catalog.tasks.get(FACES)
        if faces is not None and faces.variants and catalog.detectors:
            self._face_plans = FacePlans(faces, catalog.detectors, inference_ms)
        self.metrics.resident(catalog.resident())
        return catalog, Scheduler(dispatcher, self.metrics, cpus)

    def _tell_ready(self, catalog: Catalog, threads: int) -> None:
        """Or that there is nothing to serve."""
        variants = catalog.variants()
        if not variants:
            self.phase = "failed"
            if catalog.refused:
                log.error(
                    "none of the %d variants of %s can serve: each is named above with the reason",
                    len(catalog.refused), self.settings.store,
                )  # fmt: skip
            else:
                log.error(
                    "the store %s has no variants that can serve; what is wrong with its tasks is named "
                    "above. If it is empty, fill it and start again: model-store pull imagenet --store %s",
                    self.settings.store, self.settings.store,
                )  # fmt: skip
            return
        if self.phase == "starting":  # not when SIGTERM came first
            self.phase = "ready"
        log.info(
            "ready: %d variants, %d of %d in memory, %d inference threads",
            len(variants), catalog.resident(), len(catalog.everything()), threads,
        )  # fmt: skip

    def check_ready(self) -> None:
        """Raises NotReady unless every sound variant is loaded, measured and warm, as memory allows."""
        if self.phase != "ready":
            raise _not_ready(self.phase)

    def stop(self) -> None:
        """Finishes what is queued."""
        self.phase = "draining"
        if self._scheduler is not None:
            self._scheduler.stop()
        if self._guard is not None:
            self._guard.stop()

    def task(self, name: str, *heads: Head) -> TaskCatalog:
        """A task with one of these heads, or with any. Raises UnknownTask, or NotReady when none of its
        variants, or nothing at all, is loaded."""
        known = {n: t for n, t in self.catalog.tasks.items() if not heads or t.manifest.head in heads}
        if name not in known:
            if self.phase == "failed":
                raise _not_ready(self.phase)
            raise errors.UnknownTask(name, sorted(known))
        if not known[name].variants:
            raise errors.NotReady(f"no variant of {name!r} could be loaded; see GET /v1/variants")
        return known[name]

    def faces(self) -> TaskCatalog:
        """The task of faces. Raises NotReady when none of its variants is loaded."""
        task = self.catalog.tasks.get(FACES)
        if task is None or not task.variants:
            raise errors.NotReady("no network of face attributes is loaded; see GET /v1/variants")
        return task

    @property
    def finds_faces(self) -> bool:
        """Whether there is a detector, and a network for what it finds."""
        return self._face_plans is not None

    def face_plans(self) -> FacePlans:
        """What finds faces and tells about them. Raises NotReady when a part is not loaded."""
        self.faces()
        if self._face_plans is None:
            raise errors.NotReady("no face detector is loaded; send one aligned face, with faces=cropped")
        return self._face_plans


def _load_decoders() -> None:
    """So that the first picture of a type does not pay for it out of its budget."""
    for format in FORMATS:
        decode(plain_picture(format, 64), 128, Preprocessing())


def _not_ready(phase: Phase) -> errors.NotReady:
    details = {
        "failed": "the service could not start; its log says why",
        "draining": "the service is shutting down",
    }
    detail = details.get(phase, "the service is starting; try again in a few seconds")
    return errors.NotReady(detail, headers={"Retry-After": "2"})
