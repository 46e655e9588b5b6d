"""Whether one run shall answer two requests, which neither has a budget for. Pure; times in milliseconds.

The first waits for the second, so that it has to pay: the event loop is woken once for both answers, and a
run of two pictures may take less than two runs. How much that is on this device is learned as it goes.
"""

from service.latency import Expected, LatencyEstimates

# A pair has to spare this share of the time of two runs; what the event loop spares counts.
_SPARES = 0.03
_SPARED_MS = 0.5
# One whose picture takes so many times as long as the other's would keep that one waiting for it.
_UNEQUAL = 2.0
# One in so many pairs is not made, to know what single runs take meanwhile.
_STAY_SINGLE = 16


class Pairing:
    """Of one dispatcher."""

    def __init__(self, estimates: LatencyEstimates) -> None:
        self._estimates = estimates
        self._pairs = 0  # that were made or could have been

    def shall_pair(self, first: Expected, second: Expected) -> bool:
        """To be asked once of each two: now and then they stay apart though they could be a pair."""
        if not (first.pairs and second.pairs and first.key == second.key):
            return False
        less, more = sorted(map(self._estimates.work_ms, (first, second)))
        if more > _UNEQUAL * less or not self._pays(first, first.with_second(second), less + more):
            return False
        self._pairs += 1
        return self._pairs % _STAY_SINGLE != 0

    def _pays(self, one: Expected, both: Expected, apart_ms: float) -> bool:
        """By the latest runs; before there are enough of either kind it is tried."""
        if not (self._estimates.knows(one) and self._estimates.knows(both)):
            return True
        return self._estimates.work_ms(both) <= (1 - _SPARES) * apart_ms + _SPARED_MS
