"""How long a request will take with each variant: the device's profile, corrected by what really happens.

Every estimate is the profile's median times a ratio, and the ratio's quantiles are learned online from the
latest runs. Ratios compare across variants, so that one which has not run for a while borrows what the
others show: a device that slows down, or recovers, is followed within some fifty runs of a variant.
"""

import bisect
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model_store.imaging import ImageHeader
from model_store.manifest import Preprocessing
from model_store.profile import DecodeCost, DeviceProfile, Quantiles, decode_key

CONFIDENCE = 0.95  # the share of answers that shall be no later than the planner assumes
ANSWER_MS = 0.7  # handing over and serialising an answer, before anything was learned
_WINDOW = 48
_ENOUGH = 16  # observations before a window is believed
_STALE = 256  # observations of others after which a window tells nothing of the present
_UNKNOWN_SPREAD = 1.25  # of the profile's median, before anything was learned


class QuantileWindow:
    """The latest values of something, their median, and the bound that `CONFIDENCE` of them keep."""

    __slots__ = ("_latest", "_sorted", "bound", "median")

    def __init__(self, median: float = 1.0) -> None:
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []
        self.median = median
        self.bound = median * _UNKNOWN_SPREAD

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, value: float) -> None:
        if len(self._latest) == _WINDOW:
            oldest = self._latest.popleft()
            del self._sorted[bisect.bisect_left(self._sorted, oldest)]
        self._latest.append(value)
        bisect.insort(self._sorted, value)
        count = len(self._sorted)
        self.median = self._sorted[count // 2]
        self.bound = self._sorted[min(count - 1, int(CONFIDENCE * count))]
        if count < _ENOUGH:  # too few to have seen the slow ones
            self.bound = max(self.bound, self.median * _UNKNOWN_SPREAD)

    def clear(self) -> None:
        self._latest.clear()
        self._sorted.clear()


@dataclass(frozen=True, slots=True)
class Expected:
    """What the profile expects of one picture with one variant: the medians of its phases."""

    key: str
    decode_ms: float
    inference_ms: float

    @property
    def service_ms(self) -> float:
        """What a worker needs."""
        return self.decode_ms + self.inference_ms


class LatencyEstimates:
    """Profile and live corrections. Not thread-safe: the scheduler calls it under its lock."""

    def __init__(self, profile: DeviceProfile) -> None:
        self._inference: Mapping[str, Quantiles] = profile.inference
        self._decode: Mapping[str, DecodeCost] = profile.decode
        self._service = {key: QuantileWindow() for key in profile.inference}
        self._runs = {key: QuantileWindow() for key in profile.inference}
        self._seen = dict.fromkeys(profile.inference, 0)
        self._all = QuantileWindow()
        self.answer = QuantileWindow(ANSWER_MS)  # from the worker's end to the start of the answer, in ms
        self._count = 0

    def expected(self, key: str, header: ImageHeader, size: int, preprocessing: Preprocessing) -> Expected:
        """Before correction, for a picture of this header."""
        cost = self._decode[decode_key(header.coding, header.scale(size, preprocessing))]
        return Expected(key, cost.predict_ms(header, size), self._inference[key].p50)

    def median_ms(self, expected: Expected) -> float:
        """A worker needs no more for half of such requests."""
        return expected.service_ms * self._window(expected.key).median

    def bound_ms(self, expected: Expected) -> float:
        """A worker needs no more for `CONFIDENCE` of such requests."""
        return expected.service_ms * self._window(expected.key).bound

    def bounds_ms(self, expected: Sequence[Expected]) -> list[float]:
        return [e.service_ms * self._window(e.key).bound for e in expected]

    def observe(self, expected: Expected, service_ms: float, inference_ms: float) -> None:
        """Learns from one run of a worker."""
        key = expected.key
        ratio = service_ms / expected.service_ms
        if self._count - self._seen[key] > _STALE:
            self._service[key].clear()
            self._runs[key].clear()
        self._count += 1
        self._seen[key] = self._count
        self._service[key].add(ratio)
        self._runs[key].add(inference_ms / expected.inference_ms)
        self._all.add(ratio)

    @property
    def spread(self) -> float:
        """Of late: how much longer the bound is than the median."""
        return self._all.bound / self._all.median

    def profiled(self, key: str) -> Quantiles:
        """The profile's inference times."""
        return self._inference[key]

    def live(self, key: str) -> Quantiles | None:
        """Inference times of the latest runs; None before there are enough."""
        runs = self._runs[key]
        if len(runs) < _ENOUGH or self._count - self._seen[key] > _STALE:
            return None
        median = self._inference[key].p50
        return Quantiles(p50=median * runs.median, p95=median * runs.bound)

    def _window(self, key: str) -> QuantileWindow:
        own = self._service[key]
        fresh = len(own) >= _ENOUGH and self._count - self._seen[key] <= _STALE
        return own if fresh else self._all
