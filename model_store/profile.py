"""How long each variant takes on this device, and how long pictures take to decode.

Measured with one thread, one picture at a time, through the imaging and runtime that serve. All
times are wall-clock milliseconds.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store import atomic, device
from model_store.imaging import (
    DECODER_VERSION,
    FORMATS,
    ImageHeader,
    decode,
    sample_picture,
)
from model_store.manifest import Preprocessing
from model_store.runtime import RUNTIME_VERSION, Session

_FORMAT_VERSION = 2
_WARM_UP_RUNS = 2
_MIN_RUNS, _MAX_RUNS = 5, 30
_INFERENCE_SECONDS = 0.4
_DECODE_SECONDS = 0.03
_GRAINS = (0, 16)  # smooth and noisy: few bytes a pixel, and many
_SIZE = 128
# Two sides a format, and for JPEG those that lead to each reduction.
_JPEG_SIDES = {1: (160, 288), 2: (320, 576), 4: (640, 1152), 8: (1184, 1920)}
_OTHER_SIDES = (192, 512)


class Quantiles(BaseModel):
    """Milliseconds."""

    model_config = ConfigDict(frozen=True)

    p50: float = Field(gt=0)
    p95: float = Field(gt=0)

    @classmethod
    def of(cls, samples_ms: list[float]) -> Self:
        return cls(p50=float(np.quantile(samples_ms, 0.5)), p95=float(np.quantile(samples_ms, 0.95)))


class DecodeCost(BaseModel):
    """Decoding, cropping and resizing one picture: a linear cost in stored pixels and bytes."""

    model_config = ConfigDict(frozen=True)

    base_ms: float = Field(ge=0)
    per_megapixel_ms: float = Field(ge=0)
    per_megabyte_ms: float = Field(ge=0)

    def predict_ms(self, header: ImageHeader) -> float:
        return (
            self.base_ms
            + self.per_megapixel_ms * header.pixels / 1e6
            + self.per_megabyte_ms * header.size_bytes / 1e6
        )

    @classmethod
    def fit(cls, headers: list[ImageHeader], times_ms: list[float]) -> Self:
        """Least squares of the relative error; a cost that would come out negative is none."""
        features = np.array([[1, h.pixels / 1e6, h.size_bytes / 1e6] for h in headers])
        weights = 1 / np.array(times_ms)
        active = [0, 1, 2]
        costs = np.zeros(3)
        while active:
            rows = features[:, active] * weights[:, np.newaxis]
            solution = np.linalg.lstsq(rows, np.ones(len(headers)), rcond=None)[0]
            if (solution >= 0).all():
                costs[active] = solution
                break
            active.pop(int(solution.argmin()))
        return cls(base_ms=costs[0], per_megapixel_ms=costs[1], per_megabyte_ms=costs[2])


class DeviceProfile(BaseModel):
    """Latencies on one device with one runtime; `inference` by variant key, `decode` by `decode_key`."""

    model_config = ConfigDict(frozen=True)

    version: int = _FORMAT_VERSION
    device: str
    inference: dict[str, Quantiles] = {}
    decode: dict[str, DecodeCost] = {}


def decode_key(format: str, scale: int) -> str:
    return f"{format}/{scale}"


def device_name() -> str:
    """CPU, cores, runtime and decoder: what a profile depends on beside the store."""
    cores = device.usable_cpus()
    return f"{device.cpu_model()}, {cores} cores, {RUNTIME_VERSION}, {DECODER_VERSION}"


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


def measure_inference(session: Session, resolution: int) -> Quantiles:
    """Runs one variant on a random picture for up to half a second."""
    images = np.random.default_rng(0).integers(0, 256, (1, resolution, resolution, 3), np.uint8)
    return Quantiles.of(_samples_ms(lambda: session.run(images), _INFERENCE_SECONDS))


def measure_decoding(on_format: Callable[[str], None] = lambda _: None) -> dict[str, DecodeCost]:
    """Cost of each format, and of JPEG at each reduction."""
    return {key: _decode_cost(key, sides, on_format) for key, sides in _decode_cases()}


def _decode_cases() -> Iterator[tuple[str, tuple[int, int]]]:
    for format in FORMATS:
        if format == "JPEG":
            for scale, sides in _JPEG_SIDES.items():
                yield decode_key(format, scale), sides
        else:
            yield decode_key(format, 1), _OTHER_SIDES


def _decode_cost(key: str, sides: tuple[int, int], on_format: Callable[[str], None]) -> DecodeCost:
    format = key.partition("/")[0]
    preprocessing = Preprocessing()
    headers, times = [], []
    for side in sides:
        for grain in _GRAINS:
            data = sample_picture(format, side, side, grain=grain)
            headers.append(ImageHeader(format, side, side, len(data)))
            work = partial(decode, data, _SIZE, preprocessing)
            times.append(Quantiles.of(_samples_ms(work, _DECODE_SECONDS)).p50)
    on_format(key)
    return DecodeCost.fit(headers, times)


def _samples_ms(work: Callable[[], object], max_seconds: float) -> list[float]:
    for _ in range(_WARM_UP_RUNS):
        work()
    samples: list[float] = []
    started = time.perf_counter()
    while len(samples) < _MIN_RUNS or (
        len(samples) < _MAX_RUNS and time.perf_counter() - started < max_seconds
    ):
        before = time.perf_counter()
        work()
        samples.append((time.perf_counter() - before) * 1e3)
    return samples
