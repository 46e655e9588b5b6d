"""How requests share the workers' time: how much each may take, and what that costs the others. Pure.

Times in milliseconds. Tuned with bench/simulator.py and, for cores that others use too, bench/contended.py.
"""

import math
from collections.abc import Sequence

# What requests leave of their shares is spread over so many to come, and no more than so many shares are kept
# or owed, so that a request may be half a share to one and a half.
_SPREAD_OVER = 32
_MOST_KEPT = 16
# What was lost is forgotten with this time constant.
_MEMORY_MS = 1000.0
# The last millisecond costs so many times what all cost on average: waiting grows steeply with load.
_MARGIN = 6.0
# Workers that were at least so busy set the price by their work, idler ones by the time that they had.
_LEAST_BUSY = 0.25


class FairShares:
    """How much work each request may be for the workers to keep up with the arrivals.

    All have the same share of the workers' time, and what one leaves is for the next ones: variants come in
    steps and some requests have no time for a large one, so that only a mix fills the time that there is.
    """

    def __init__(self) -> None:
        self._kept_ms = 0.0

    def limit_ms(self, share_ms: float) -> float:
        """The most work for the next request, when each one's share is `share_ms` (infinite: unknown)."""
        return share_ms + self._kept_ms / _SPREAD_OVER

    def take(self, share_ms: float, work_ms: float) -> None:
        """A request of so much work starts."""
        if share_ms < math.inf:
            most = _MOST_KEPT * share_ms
            self._kept_ms = max(-most, min(most, self._kept_ms + share_ms - work_ms))


class WorkPrice:
    """What a millisecond of a worker's time costs, in accuracy.

    Requests that were refused, came too late or had to be answered by less than an idle device would have
    run are what load cost of late. Divided by the work that was done it is the price of that work. A larger
    variant is worth running only where it gains more than that: while a worker is at it, others come that
    have no time to wait, which neither the queue nor the rate of arrivals tells beforehand.
    """

    def __init__(self, workers: int) -> None:
        self._least_work = _LEAST_BUSY * workers * _MEMORY_MS
        self._lost = 0.0
        self._work = 0.0
        self._now = 0.0

    def lost(self, accuracy: float, most_per_ms: float, now: float) -> None:
        """So much accuracy was lost to load. Time is never worth more than `most_per_ms`, what the most
        efficient variant makes of it: then that one runs, and more losses change nothing."""
        self._fade(now)
        most = most_per_ms * max(self._work, self._least_work) / _MARGIN
        self._lost = max(self._lost, min(most, self._lost + accuracy))

    def worked(self, work_ms: float, now: float) -> None:
        """A request of so much work starts."""
        self._fade(now)
        self._work += work_ms

    def per_ms(self, now: float) -> float:
        self._fade(now)
        return _MARGIN * self._lost / max(self._work, self._least_work)

    def _fade(self, now: float) -> None:
        if now > self._now:
            share = math.exp((self._now - now) / _MEMORY_MS)
            self._lost *= share
            self._work *= share
            self._now = now


def net_values(
    top1: Sequence[float],
    works_ms: Sequence[float],
    bounds_ms: Sequence[float],
    price_per_ms: float,
    workers: int,
) -> list[float]:
    """What each variant is worth: its accuracy less the price of its work. One whose work is infinite keeps
    all workers for as long as its bound."""
    return [
        accuracy - price_per_ms * (work if work < math.inf else workers * bound)
        for accuracy, work, bound in zip(top1, works_ms, bounds_ms, strict=True)
    ]
