"""Answers before new requests, and the most urgent of those first: what a burst does to one event loop."""

import asyncio
import bisect
import itertools
import math
from collections.abc import Callable

from service.clock import now_ms

_FIRST_TURN_MS = 0.5  # before any was seen
_SMOOTHING = 0.1
# A turn of more than so many times the mean was stalled: were it believed, those who come next would be
# refused though hardly anybody is ahead of them.
_STALLED = 4.0


class TooFarBehind(Exception):
    """A request would be let in too late by `late_ms`."""

    def __init__(self, late_ms: float) -> None:
        super().__init__(f"let in {late_ms:.1f} ms too late")
        self.late_ms = late_ms


class Turnstile:
    """Lets one request in for each turn of the event loop; who waits does so in the order of `due`.

    A loop runs what is ready in the order in which it became so. Without a turnstile an answer waits behind
    a burst until every request of it is read, checked and queued, which takes longer than the inference, and
    an urgent request behind all that came a moment earlier. Times are milliseconds of `clock`.
    """

    def __init__(self, clock: Callable[[], float] = now_ms) -> None:
        self._clock = clock
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._turning = False
        self._turned = 0.0
        self._turn_ms = _FIRST_TURN_MS

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    async def enter(self, due: float, latest: float = math.inf) -> None:
        """Waits for its turn, and not at all as the first of one. Raises TooFarBehind, at once, when by the
        present pace it would be let in after `latest`."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            self._turned = self._clock()
            loop.call_soon(self._turn, loop)
            return
        ahead = bisect.bisect(self._waiting, (due, math.inf))
        late_ms = self._clock() + (ahead + 1) * self._turn_ms - latest
        if late_ms > 0:
            raise TooFarBehind(late_ms)
        turn = loop.create_future()
        self._waiting.insert(ahead, (due, next(self._order), turn))
        await turn

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self._clock()
        turn_ms = min(now - self._turned, _STALLED * self._turn_ms)
        self._turn_ms += _SMOOTHING * (turn_ms - self._turn_ms)
        self._turned = now
        while self._waiting:
            turn = self._waiting.pop(0)[2]
            if not turn.done():  # else its request was given up
                turn.set_result(None)
                loop.call_soon(self._turn, loop)
                return
        self._turning = False
