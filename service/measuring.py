"""How long everything takes on this device: measured once, and kept in the state directory."""

import contextlib
import fcntl
import logging
from pathlib import Path

from model_store import profile as profiling
from model_store.imaging import FORMATS, PROGRESSIVE
from model_store.profile import DeviceProfile
from model_store.store import ModelStore
from service.catalog import Catalog

log = logging.getLogger(__name__)

# What `DeviceProfile.decode` must tell for every picture to have a cost.
DECODE_KEYS = frozenset(
    {profiling.CUT}
    | {profiling.decode_key(format, 1) for format in FORMATS}
    | {profiling.decode_key(coding, scale) for coding in ("JPEG", PROGRESSIVE) for scale in (1, 2, 4, 8)}
)


def device_profile(catalog: Catalog, store: ModelStore, workers: int, state_dir: Path) -> DeviceProfile:
    """The cached profile of this device and store, or a fresh one, which is then kept.

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
            profile = measure(catalog, store, workers)
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


def measure(catalog: Catalog, store: ModelStore, workers: int) -> DeviceProfile:
    """Every plan on each provider that would do, every detector, and decoding: seconds for each of them."""
    plans = catalog.plans()
    log.info("measuring %d variants and decoding on this device: %s", len(plans), profiling.device_name())
    decode = profiling.measure_decoding()
    inference = {}
    for i, plan in enumerate(plans, start=1):
        # One after the other, so that no more than one other session is in memory.
        others = (plan.on(provider, store, workers) for provider in plan.others(workers))
        for p in (plan, *others):
            if p is None:
                continue
            times = profiling.measure_inference(p.session, p.variant.manifest.resolution)
            inference[p.key] = times
            log.info("measured %d of %d: %s, p50 %.1f ms", i, len(plans), p.key, times.p50)
    for detector in catalog.detectors:
        times = profiling.measure_inference(detector.session, detector.manifest.resolution)
        inference[detector.key] = times
        log.info("measured %s, p50 %.1f ms", detector.key, times.p50)
    return DeviceProfile(device=profiling.device_name(), inference=inference, decode=decode)
