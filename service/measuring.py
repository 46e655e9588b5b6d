"""How long everything takes on this device: measured once, and kept in the state directory."""

import contextlib
import fcntl
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

from model_store import profile as profiling
from model_store.device import on_cpu
from model_store.imaging import FORMATS, PROGRESSIVE
from model_store.profile import DeviceProfile, Quantiles
from model_store.store import ModelStore
from service.catalog import Catalog, Plan

log = logging.getLogger(__name__)

# What `DeviceProfile.decode` must tell for every picture to have a cost.
DECODE_KEYS = frozenset(
    {profiling.CUT}
    | {profiling.decode_key(format, 1) for format in FORMATS}
    | {profiling.decode_key(coding, scale) for coding in ("JPEG", PROGRESSIVE) for scale in (1, 2, 4, 8)}
)


def device_profile(
    catalog: Catalog, store: ModelStore, workers: int, state_dir: Path, cpus: Sequence[int] = ()
) -> DeviceProfile:
    """The cached profile of this device and store, or a fresh one, which is then kept. `cpus` are those of
    the workers, where each has its own.

    Of several processes that start together one measures; the others wait and read.
    """
    if not catalog.everything():
        return DeviceProfile(device=profiling.device_name())  # there is nothing to choose between
    path = profiling.cache_path(state_dir, store.digest())
    profile = _complete(profiling.load(path), catalog)
    if profile is not None:
        return profile
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # which saving tells of
            state_dir.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context((state_dir / ".lock").open("w")), fcntl.LOCK_EX)
        profile = _complete(profiling.load(path), catalog)
        if profile is None:
            profile = measure(catalog, store, workers, cpus)
            try:
                profiling.save(path, profile)
            except OSError as error:
                log.warning(
                    "the state directory %s cannot be written (%s): latencies are measured at every start",
                    state_dir, error.strerror,
                )  # fmt: skip
        return profile


def _complete(profile: DeviceProfile | None, catalog: Catalog) -> DeviceProfile | None:
    """None for a profile that lacks a plan, as after a variant was refused and then mended, or that cannot
    tell what some picture costs."""
    if profile is None:
        return None
    keys = {*(plan.key for plan in catalog.plans()), *(d.key for d in catalog.detectors)}
    complete = keys <= profile.inference.keys() and profile.decode.keys() >= DECODE_KEYS
    return profile if complete else None


def measure(catalog: Catalog, store: ModelStore, workers: int, cpus: Sequence[int] = ()) -> DeviceProfile:
    """Every plan on each provider that would do, every detector, and decoding: seconds for each of them."""
    variants = [list(plans) for _, plans in itertools.groupby(catalog.plans(), lambda plan: plan.variant)]
    log.info("measuring %d variants and decoding on this device: %s", len(variants), profiling.device_name())
    decode = profiling.measure_decoding()
    inference: dict[str, Quantiles] = {}

    def compare(which: int, *plans: Plan) -> None:
        sessions = [plan.session for plan in plans]
        measured = profiling.measure_inference(sessions, plans[0].resolution)
        for plan, times in zip(plans, measured, strict=True):
            inference[plan.key] = times
            log.info("measured %d of %d: %s, p50 %.1f ms", which, len(variants), plan.key, times.p50)

    for i, plans in enumerate(variants, start=1):  # with one thread, and with several
        with on_cpu(cpus[0]) if cpus else contextlib.nullcontext():
            compare(i, *plans)
        # One after the other, so that no more than one other session is in memory. Not on one CPU, where
        # threads that such a session starts now would stay.
        for other in (plan.on(name, store, workers) for plan in plans for name in plan.others(workers)):
            if other is not None:
                compare(i, other)
    for detector in catalog.detectors:
        (times,) = profiling.measure_inference([detector.session], detector.manifest.resolution)
        inference[detector.key] = times
        log.info("measured %s, p50 %.1f ms", detector.key, times.p50)
    return DeviceProfile(device=profiling.device_name(), inference=inference, decode=decode)
