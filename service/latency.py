"""How long a request will take with each variant: the device's profile, corrected by what really happens.

Every estimate is the profile's median times a ratio, and the ratio's quantiles are learned online from the
latest runs. Ratios compare across variants, so that one which has not run for a while borrows what the
others show: a device that slows down, or recovers, is followed within some fifty runs of a variant.

What follows until the answer starts to leave is not the variant's: it is as long as the event loop is busy
with others, the same for all of them, and learned by itself. A burst that delays answers by tens of
milliseconds shall not be held against the small variants, which it delays by many times their own time, long
after it is over.
"""

import bisect
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from model_store.imaging import ImageHeader
from model_store.manifest import Preprocessing
from model_store.profile import CUT, DecodeCost, DeviceProfile, Quantiles, decode_key

CONFIDENCE = 0.95  # the quantile of a window that is its bound at least
LATE_AT_BOUND = 0.025  # of all, so many take longer than the bound
# So many times as far beyond the median as the mean of a window's upper half is the bound. It rests on 24
# values, the window's own quantile on two. With an exponential tail it would be 3.0; those under bursts are
# heavier: with 3.0 one in 21 to 28 was beyond it on one machine; on another one in 18 to 21 with 3.4, and one
# in 23 with 3.8.
_TAIL = 3.7
ANSWER_MS = 0.7  # handing over and serialising an answer, before anything was learned
_WINDOW = 48
# A run of more than so many times the median was stalled: the machine did something else, and how long it did
# tells nothing of the next run.
_STALLED = 4.0
_ANSWERS = 16  # so many of the latest answers tell how busy the event loop is
_ENOUGH = 16  # observations before a window is believed
_STALE = 256  # observations of others after which a window tells nothing of the present
_ANY = ImageHeader("", 0, 0, 0)  # what cutting a face costs does not depend on the picture
_UNKNOWN_SPREAD = 1.25  # of the profile's median, before anything was learned
# How many times longer one takes that is run ahead of another, before any was: it has most of a core.
_AHEAD = 1.25
# The same with several threads, before the plan itself has run: whatever wants a core for a moment delays it.
_UNKNOWN_PARALLEL_SPREAD = 1.6


class QuantileWindow:
    """The latest values of something: their median, `high` that `CONFIDENCE` of them keep, and `bound`, that
    almost all keep. What is more than `most` times the median counts as that."""

    __slots__ = ("_high_at", "_latest", "_length", "_most", "_sorted", "bound", "count", "high", "median")

    def __init__(self, median: float = 1.0, length: int = _WINDOW, most: float = _STALLED) -> None:
        self._latest: deque[float] = deque()
        self._length, self._most = length, most
        self._sorted: list[float] = []
        self.count = 0
        self.median = median
        self.high = self.bound = median * _UNKNOWN_SPREAD

    def add(self, value: float) -> None:
        if len(self._latest) == self._length:
            oldest = self._latest.popleft()
            del self._sorted[bisect.bisect_left(self._sorted, oldest)]
        self._latest.append(value)
        bisect.insort(self._sorted, value)
        count = len(self._sorted)
        if count != self.count:
            self.count = count
            # Of n values the k-th is passed by a share of 1 - k / (n + 1) of those to come.
            self._high_at = min(count, int(CONFIDENCE * (count + 1) + 0.5)) - 1
        median = self.median = self._sorted[count // 2]
        most = self._most * median
        self.high = min(self._sorted[self._high_at], most)
        if count < _ENOUGH:  # too few to have seen the slow ones, or to tell how slow those are
            self.bound = max(self.high, median * _UNKNOWN_SPREAD)
            return
        above = self._sorted[count // 2 + 1 :]
        if above[-1] > most:
            above = [min(each, most) for each in above]
        self.bound = max(self.high, median + _TAIL * (sum(above) / len(above) - median))

    def clear(self) -> None:
        self._latest.clear()
        self._sorted.clear()
        self.count = 0


class Costs(NamedTuple):
    """Of plans, the most accurate first, in ms: the work of a worker, which is infinite for what keeps all of
    them, and the time to the start of the answer, in the median and as `LATE_AT_BOUND` of all exceed it."""

    works_ms: Sequence[float]
    medians_ms: Sequence[float]
    bounds_ms: Sequence[float]


class Ahead(NamedTuple):
    """Of the same plans, where they are run ahead of a request that has started: the time to the start of the
    answer, in the median and as `LATE_AT_BOUND` of all exceed it, and for how long that one is held up."""

    medians_ms: Sequence[float]
    bounds_ms: Sequence[float]
    holds_ms: Sequence[float]


class Loadable(Protocol):
    """Something that a plan needs and that may not be in memory."""

    @property
    def load_ms(self) -> float:
        """How long it takes now until it is; infinite where that has failed."""
        ...


class Planned(Protocol):
    """A way to answer about one picture: see `Expected`."""

    @property
    def key(self) -> str: ...
    @property
    def resolution(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def needs(self) -> tuple[Loadable, ...]: ...
    @property
    def pairs(self) -> bool: ...


@dataclass(slots=True)
class Expected:
    """What the profile expects of one picture with one plan: the medians of its phases, and of the whole
    that a worker needs once all that it `needs` is in memory. With several `threads` it keeps all workers.
    One that `pairs` may be in one run with another of the same key."""

    key: str
    decode_ms: float
    inference_ms: float
    threads: int = 1
    needs: tuple[Loadable, ...] = ()
    pairs: bool = False
    service_ms: float = field(init=False)

    def __post_init__(self) -> None:
        self.service_ms = self.decode_ms + self.inference_ms

    @property
    def load_ms(self) -> float:
        """At this moment, before anything runs."""
        return sum(each.load_ms for each in self.needs) if self.needs else 0.0

    @property
    def loaded(self) -> "Expected":
        """The same once all that it needs is in memory."""
        return replace(self, needs=()) if self.needs else self

    def with_second(self, other: "Expected") -> "Expected":
        """Both in one run: by the profile the work of both. What it is, is learned by a key of its own."""
        decode_ms, inference_ms = self.decode_ms + other.decode_ms, self.inference_ms + other.inference_ms
        return Expected(f"{self.key}/2 pictures", decode_ms, inference_ms)


def fastest(expected: Sequence[Expected]) -> int:
    """The place of the least work among the plans with one thread, which can always run.

    By the profile: what was learned of two variants at different times may change their order for a moment.
    """
    least, found = math.inf, 0
    for i, plan in enumerate(expected):
        if plan.service_ms < least and plan.threads == 1:
            least, found = plan.service_ms, i
    return found


@dataclass(slots=True)
class _Live:
    """What the latest runs of a variant showed, as ratios to the profile: of the worker's time, and of
    inference alone. `seen` is the count of all runs at the last of them; once there are enough they tell of
    the present, until `fresh_until` by that count."""

    service: QuantileWindow = field(default_factory=QuantileWindow)
    inference: QuantileWindow = field(default_factory=QuantileWindow)
    seen: int = 0
    fresh_until: float = -1

    def clear(self) -> None:
        for window in (self.service, self.inference):
            window.clear()
        self.fresh_until = -1


class LatencyEstimates:
    """Profile and live corrections. Not thread-safe: the scheduler calls it under its lock."""

    def __init__(self, profile: DeviceProfile) -> None:
        self._inference: Mapping[str, Quantiles] = profile.inference
        self._decode: Mapping[str, DecodeCost] = profile.decode
        self._live = {key: _Live() for key in profile.inference}  # and of plans of several, once they run
        self._all = _Live(fresh_until=math.inf)
        self._answer = QuantileWindow(ANSWER_MS, _ANSWERS, math.inf)  # in ms
        self._ahead = QuantileWindow(_AHEAD)  # to what the same takes on a core of its own
        self._count = 0

    def expected(
        self, plans: Sequence[Planned], header: ImageHeader, preprocessing: Preprocessing
    ) -> list[Expected]:
        """Of each plan, before correction, for a picture of this header."""
        decode_ms: dict[int, float] = {}
        found = []
        for plan in plans:
            key, size = plan.key, plan.resolution
            if size not in decode_ms:
                decode_ms[size] = self.decode_ms(header, size, preprocessing)
            inference_ms = self._inference[key].p50
            found.append(Expected(key, decode_ms[size], inference_ms, plan.threads, plan.needs, plan.pairs))
        return found

    def decode_ms(self, header: ImageHeader, size: int, preprocessing: Preprocessing) -> float:
        """What the profile expects of decoding such a picture to `size`."""
        cost = self._decode[decode_key(header.coding, header.scale(size, preprocessing))]
        return cost.predict_ms(header, size)

    def face_ms(self, key: str, size: int) -> float:
        """What the profile expects of cutting one face out and running a variant of `size` pixels on it."""
        return self._decode[CUT].predict_ms(_ANY, size) + self._inference[key].p50

    def cost(self, expected: Expected) -> tuple[float, float, float]:
        """Of one: see `work_ms`, `median_ms` and `bound_ms`."""
        ratio, answer, service_ms = self._present(expected.key).service, self._answer, expected.service_ms
        work = service_ms * ratio.median
        if expected.needs:
            work += expected.load_ms
        median = work + answer.median
        # What is independent of each other is seldom slow at once: the excesses over the medians add as
        # standard deviations do.
        excess = math.hypot(service_ms * (ratio.bound - ratio.median), answer.bound - answer.median)
        return work, median, median + excess

    def work_ms(self, expected: Expected) -> float:
        """A worker needs no more for half of such requests."""
        work = expected.service_ms * self._present(expected.key).service.median
        return work + expected.load_ms if expected.needs else work

    def median_ms(self, expected: Expected) -> float:
        """From a worker's start to the answer's, for half of such requests."""
        return self.work_ms(expected) + self._answer.median

    def bound_ms(self, expected: Expected) -> float:
        """From a worker's start to the answer's, for almost all such requests."""
        return self.cost(expected)[2]

    @property
    def answer_bound_ms(self) -> float:
        """From a worker's end to the answer's start, for almost all requests."""
        return self._answer.bound

    def costs(self, expected: Sequence[Expected]) -> Costs:
        """Of each: see `work_ms`, `median_ms` and `bound_ms`. The work of what keeps all workers is infinite:
        there is room for it only when nobody else wants one."""
        # The hot path of planning: what `_present` says, without a call for each.
        lives, count, of_all = self._live, self._count, self._all
        answer, answer_excess = self._answer.median, self._answer.bound - self._answer.median
        works, medians, bounds = [], [], []
        for e in expected:
            live = lives.get(e.key, of_all)
            if count > live.fresh_until:
                live = of_all
            service, ratio = e.service_ms, live.service
            work = service * ratio.median
            if e.needs:
                work += e.load_ms
            median = work + answer
            bound = median + math.hypot(service * (ratio.bound - ratio.median), answer_excess)
            if e.threads > 1:
                work = math.inf
                if live is of_all:
                    bound = max(bound, _UNKNOWN_PARALLEL_SPREAD * median)
            works.append(work)
            medians.append(median)
            bounds.append(bound)
        return Costs(works, medians, bounds)

    def costs_ahead(self, costs: Costs) -> Ahead:
        """Of the same plans, run ahead of a request that has started, on the core that this one keeps to some
        part. What needs all workers cannot."""
        ratio, answer = self._ahead, self._answer
        excess, answer_excess = ratio.bound - ratio.median, answer.bound - answer.median
        medians, bounds, holds = [], [], []
        for work in costs.works_ms:
            medians.append(work * ratio.median + answer.median)
            bounds.append(medians[-1] + math.hypot(work * excess, answer_excess))
            holds.append(work * ratio.bound)
        return Ahead(medians, bounds, holds)

    def observe_ahead(self, expected: Expected, service_ms: float) -> None:
        """Learns from one run ahead of another request."""
        self._ahead.add(service_ms / (expected.service_ms * self._present(expected.key).service.median))

    def observe(self, expected: Expected, service_ms: float, inference_ms: float) -> None:
        """Learns from one run of a worker."""
        live = self._live.setdefault(expected.key, _Live())
        if self._count - live.seen > _STALE:
            live.clear()
        self._count += 1
        live.seen = self._count
        ratio = service_ms / expected.service_ms
        live.service.add(ratio)
        live.inference.add(inference_ms / expected.inference_ms)
        if live.service.count >= _ENOUGH:
            live.fresh_until = live.seen + _STALE
        self._all.service.add(ratio)

    def observe_answer(self, delay_ms: float) -> None:
        """Learns from an answer, so long after its worker's end."""
        self._answer.add(delay_ms)

    @property
    def slowdown(self) -> float:
        """How much longer workers have taken of late than the profile says, in the median: 1 as measured."""
        return self._all.service.median

    @property
    def spread(self) -> float:
        """Of late: how many times its median the worker's time may be."""
        return self._all.service.bound / self._all.service.median

    def knows(self, expected: Expected) -> bool:
        """Whether there are enough runs of the plan to tell of the present."""
        return self._present(expected.key) is not self._all

    def profiled(self, key: str) -> Quantiles:
        """The profile's inference times."""
        return self._inference[key]

    def live(self, key: str) -> Quantiles | None:
        """Inference times of the latest runs; None before there are enough."""
        live = self._present(key)
        if live is self._all:
            return None
        median = self._inference[key].p50
        return Quantiles(p50=median * live.inference.median, p95=median * live.inference.high)

    def _present(self, key: str) -> _Live:
        """What the latest runs of a plan showed or, where they are too few or too old, those of all."""
        live = self._live.get(key)
        return self._all if live is None or self._count > live.fresh_until else live
