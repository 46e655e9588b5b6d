"""How requests share the workers' time: how much each may take, and what that costs the others. Pure.

Times in milliseconds. Tuned with bench/simulator.py and, for cores that others use too, bench/contended.py.
"""

import bisect
import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

# The rate of arrivals is that of so many, or of the latest few when they come so many times as fast: a burst.
_ARRIVALS = 64
_BURSTS = ((12, 1.5), (24, 1.3))
# Times for which workers are busy are told apart in steps of a sixth, from half a millisecond on.
_EDGES_MS = [0.5 * 1.2**step for step in range(50)]
_BINS = len(_EDGES_MS) + 1
# What requests leave of their shares is spread over so many to come, and no more than so many shares are kept
# or owed, so that a request may be half a share to one and a half.
_SPREAD_OVER = 32
_MOST_KEPT = 16
# What was lost is forgotten with this time constant.
_MEMORY_MS = 500.0
# The last millisecond costs so many times what all cost on average: waiting grows steeply with load.
_MARGIN = 4.0
# Workers that were at least so busy set the price by their work, idler ones by the time that they had.
_LEAST_BUSY = 0.25


class Chance(NamedTuple):
    """So much accuracy is lost by waiting for longer than `wait_ms`."""

    wait_ms: float
    accuracy: float


class Arrivals:
    """The latest requests that an idle device could have answered in time: how fast they come, and what they
    lose when they find all workers busy.

    A worker ends what it has started. While all are at something, a request in a hurry that comes has to wait
    for the first to end, and is refused or gets a smaller variant where it cannot, unless it may run ahead.
    How many come so soon after another is counted and not taken from their rate: requests come in bursts.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._times: deque[float] = deque(maxlen=_ARRIVALS)
        # What those that came after each arrival would have lost, by how long workers had to be busy from it
        # on for that: of each and in all.
        self._lost: deque[list[tuple[int, float]]] = deque(maxlen=_ARRIVALS)
        self._all_lost = [0.0] * _BINS

    def came(self, now: float, chances: Sequence[Chance], longest_ms: float) -> None:
        """`chances` are the steps of accuracy that the request loses by waiting; nothing keeps workers busy
        for more than `longest_ms`."""
        if len(self._times) == _ARRIVALS:  # the oldest goes first, and makes no pair with this one
            self._times.popleft()
            for which, accuracy in self._lost.popleft():
                self._all_lost[which] -= accuracy
        all_lost = self._all_lost
        for wait_ms, accuracy in chances:
            if wait_ms >= longest_ms:
                continue
            since = now + wait_ms
            for time, lost in zip(reversed(self._times), reversed(self._lost), strict=True):
                if since - time >= longest_ms:
                    break
                which = bisect.bisect_left(_EDGES_MS, since - time)
                lost.append((which, accuracy))
                all_lost[which] += accuracy
        self._times.append(now)
        self._lost.append([])

    def share_ms(self, now: float) -> float:
        """The work at which the workers keep up with the latest arrivals; infinite before there are many."""
        if len(self._times) < _ARRIVALS:
            return math.inf
        between = (now - self._times[0]) / _ARRIVALS
        for latest, faster in _BURSTS:
            between = min(between, faster * (now - self._times[-latest]) / latest)
        return self._workers * between

    def loss(self, busy_ms: float) -> float:
        """The accuracy that is expected to be lost when all workers are busy for so long after an arrival;
        what is lost in the last sixth of it may not count."""
        if len(self._times) < _ARRIVALS:
            return 0.0
        return sum(self._all_lost[: bisect.bisect_right(_EDGES_MS, busy_ms)]) / _ARRIVALS


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
    variant is worth running only where it gains more than that. It tells what neither the queue nor the
    latest arrivals tell beforehand.
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
