"""How long each variant takes on this device, and how long pictures take to decode.

Measured with one thread, one picture at a time, through the imaging and runtime that serve. All
times are wall-clock milliseconds.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store import atomic, device
from model_store.architecture import RESOLUTIONS
from model_store.imaging import (
    DECODER_VERSION,
    FORMATS,
    PROGRESSIVE,
    ImageHeader,
    decode,
    sample_picture,
)
from model_store.manifest import Preprocessing
from model_store.photo import Photo
from model_store.runtime import RUNTIME_VERSION, Runnable, accelerators

_FORMAT_VERSION = 4
_WARM_UP_RUNS = 2
_MIN_RUNS, _MAX_RUNS = 5, 30
_TURN_RUNS = 5
_INFERENCE_SECONDS = 0.4
_DECODE_SECONDS = 0.02
# Smooth and noisy: few bytes a pixel, and many. PNG packs noise as it is, which is faster than any photo.
_GRAINS, _PNG_GRAINS = (0, 24), (0, 2)
# Sides of the pictures that are decoded, each with the sizes it is decoded for. For JPEG, by the reduction
# that these lead to.
Sides = dict[int, tuple[int, ...]]
_JPEG_SIDES: dict[int, Sides] = {
    1: {160: (128, 224), 288: (128,), 480: (224,)},
    2: {320: (128,), 576: (128, 224), 960: (224,)},
    4: {640: (128,), 1152: (128, 224), 1600: (224,)},
    8: {1184: (128,), 2048: (128, 224)},
}
_PROGRESSIVE_SIDES: dict[int, Sides] = {2: {320: (128,), 960: (224,)}}
_CUT_FROM = 640  # pixels a side
_OTHER_SIDES: Sides = {160: (128, 224), 448: (128, 224)}


class Quantiles(BaseModel):
    """Milliseconds."""

    model_config = ConfigDict(frozen=True)

    p50: float = Field(gt=0)
    p95: float = Field(gt=0)

    @classmethod
    def of(cls, samples_ms: list[float]) -> Self:
        return cls(p50=float(np.quantile(samples_ms, 0.5)), p95=float(np.quantile(samples_ms, 0.95)))


class DecodeCost(BaseModel):
    """Decoding, cropping and resizing one picture: linear in stored pixels and bytes, and in pixels made."""

    model_config = ConfigDict(frozen=True)

    base_ms: float = Field(ge=0)
    per_megapixel_ms: float = Field(ge=0)
    per_megabyte_ms: float = Field(ge=0)
    per_output_megapixel_ms: float = Field(default=0, ge=0)

    def predict_ms(self, header: ImageHeader, size: int) -> float:
        """Of a picture with this header, for a variant of `size` pixels a side."""
        return (
            self.base_ms
            + self.per_megapixel_ms * header.pixels / 1e6
            + self.per_megabyte_ms * header.size_bytes / 1e6
            + self.per_output_megapixel_ms * size * size / 1e6
        )

    @classmethod
    def fit(cls, cases: list[tuple[ImageHeader, int]], times_ms: list[float]) -> Self:
        """Least squares of the relative error; a cost that would come out negative is none."""
        features = np.array([[1, h.pixels / 1e6, h.size_bytes / 1e6, size**2 / 1e6] for h, size in cases])
        weights = 1 / np.array(times_ms)
        active = list(range(features.shape[1]))
        costs = np.zeros(len(active))
        while active:
            rows = features[:, active] * weights[:, np.newaxis]
            solution = np.linalg.lstsq(rows, np.ones(len(cases)), rcond=None)[0]
            if (solution >= 0).all():
                costs[active] = solution
                break
            active.pop(int(solution.argmin()))
        return cls(**dict(zip(cls.model_fields, costs.tolist(), strict=True)))

    def plus(self, other: "DecodeCost") -> "DecodeCost":
        return DecodeCost(**{name: value + getattr(other, name) for name, value in self})


class DeviceProfile(BaseModel):
    """Latencies on one device with one runtime; `inference` by the plan's key, `decode` by `decode_key`."""

    model_config = ConfigDict(frozen=True)

    version: int = _FORMAT_VERSION
    device: str
    inference: dict[str, Quantiles] = {}
    decode: dict[str, DecodeCost] = {}


CUT = "cut"  # of `DeviceProfile.decode`: cutting a face out of a photo, once that is decoded


def decode_key(coding: str, scale: int) -> str:
    """`coding` and scale as `ImageHeader` has them."""
    return f"{coding}/{scale}"


def device_name() -> str:
    """CPU, cores, runtime, its providers and decoder: what a profile depends on beside the store."""
    cores = f"{device.usable_cpus()} cores"
    providers = [f"{name} {version}".rstrip() for name, version in accelerators().items()]
    return ", ".join([device.cpu_model(), cores, RUNTIME_VERSION, *providers, DECODER_VERSION])


def cache_path(state_dir: Path, store_digest: str) -> Path:
    """Where the profile of this device and this store is kept."""
    key = hashlib.sha256(f"{_FORMAT_VERSION}\n{device_name()}\n{store_digest}".encode())
    return state_dir / f"profile-{key.hexdigest()[:16]}.json"


def load(path: Path) -> DeviceProfile | None:
    """A cached profile, or None when there is none that can be used."""
    try:
        profile = DeviceProfile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return profile if profile.version == _FORMAT_VERSION else None


def save(path: Path, profile: DeviceProfile) -> None:
    """Raises OSError where the state directory cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, profile.model_dump_json(indent=2).encode())


def measure_inference(sessions: Sequence[Runnable], resolution: int) -> list[Quantiles]:
    """Runs sessions that are to be compared on a random picture, each for up to half a second: in turns, so
    that whatever else the machine does meets all alike."""
    images = np.random.default_rng(0).integers(0, 256, (1, resolution, resolution, 3), np.uint8)
    works = [partial(session.run, images) for session in sessions]
    return [Quantiles.of(samples) for samples in _samples_ms(works, _INFERENCE_SECONDS)]


def measure_decoding(on_coding: Callable[[str], None] = lambda _: None) -> dict[str, DecodeCost]:
    """Cost of each format, and of JPEG at each reduction, with memory kept as in serving."""
    device.keep_freed_memory()
    costs: dict[str, DecodeCost] = {}
    for coding, scale, sides in _decode_cases():
        cases, times = _decode_times(coding, sides)
        if coding == PROGRESSIVE:
            # All scans are read in full, so that what they cost more is the same at every reduction.
            plain = costs[decode_key("JPEG", scale)]
            extra = [max(ms - plain.predict_ms(*case), 1e-3) for case, ms in zip(cases, times, strict=True)]
            surcharge = DecodeCost.fit(cases, extra)
            for other in _JPEG_SIDES:
                costs[decode_key(coding, other)] = costs[decode_key("JPEG", other)].plus(surcharge)
        else:
            costs[decode_key(coding, scale)] = DecodeCost.fit(cases, times)
        on_coding(decode_key(coding, scale))
    costs[CUT] = _cut_cost()
    on_coding(CUT)
    return costs


def _cut_cost() -> DecodeCost:
    """A line through the times of the smallest and the largest size."""
    photo = Photo(sample_picture("JPEG", _CUT_FROM, _CUT_FROM, grain=24), _CUT_FROM)
    low, high = min(RESOLUTIONS), max(RESOLUTIONS)
    box = (100.5, 50.5, 300.5, 250.5)
    low_ms, high_ms = (_median_ms(partial(photo.cut, box, size)) for size in (low, high))
    per_megapixel_ms = max(0.0, (high_ms - low_ms) / (high**2 - low**2) * 1e6)
    base_ms = max(0.0, low_ms - per_megapixel_ms * low**2 / 1e6)
    return DecodeCost(
        base_ms=base_ms, per_megapixel_ms=0, per_megabyte_ms=0, per_output_megapixel_ms=per_megapixel_ms
    )


def _decode_cases() -> Iterator[tuple[str, int, Sides]]:
    """(coding, scale, pictures)"""
    for scale, sides in _JPEG_SIDES.items():
        yield "JPEG", scale, sides
    for scale, sides in _PROGRESSIVE_SIDES.items():
        yield PROGRESSIVE, scale, sides
    for format in FORMATS:
        if format != "JPEG":
            yield format, 1, _OTHER_SIDES


def _decode_times(coding: str, pictures: Sides) -> tuple[list[tuple[ImageHeader, int]], list[float]]:
    format, progressive = ("JPEG", True) if coding == PROGRESSIVE else (coding, False)
    cases, times = [], []
    for side, sizes in pictures.items():
        for grain in _PNG_GRAINS if coding == "PNG" else _GRAINS:
            data = sample_picture(format, side, side, grain=grain, progressive=progressive)
            for size in sizes:
                cases.append((ImageHeader(format, side, side, len(data), progressive), size))
                work = partial(decode, data, size, Preprocessing())
                times.append(_median_ms(work))
    return cases, times


def _median_ms(decode: Callable[[], object]) -> float:
    (samples,) = _samples_ms([decode], _DECODE_SECONDS)
    return Quantiles.of(samples).p50


def _samples_ms(works: Sequence[Callable[[], object]], max_seconds: float) -> list[list[float]]:
    """Of each, in turns of a few runs."""
    for work in works:
        for _ in range(_WARM_UP_RUNS):
            work()
    samples: list[list[float]] = [[] for _ in works]

    def unfinished(taken: list[float]) -> bool:
        enough = len(taken) >= _MAX_RUNS or sum(taken) >= max_seconds * 1e3
        return len(taken) < _MIN_RUNS or not enough

    while any(map(unfinished, samples)):
        for work, taken in zip(works, samples, strict=True):
            for _ in range(_TURN_RUNS):
                before = time.perf_counter()
                work()
                taken.append((time.perf_counter() - before) * 1e3)
    return samples
