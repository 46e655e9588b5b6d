"""How much longer than expected the work that waits may take, learned from the promises that it broke. Pure.

A queue is longest in a burst, when the event loop and the machine's other work take the workers' cores too,
and by how much nobody tells. So the factor is found as a quantile is by stochastic approximation (Robbins and
Monro, 1951; for predictions: Gibbs and Candès, Adaptive conformal inference under distribution shift, 2021):
it rises with each request whose time was spent waiting and falls a little with each other one, so that it
rests where `BROKEN` of them are.
"""

BROKEN = 0.01  # of those that insist and were admitted behind others; where so many break, it settles
_LEAST, _MOST = 1.1, 1.6
_STEP = 0.05


class Pessimism:
    """Of one queue. `factor` is 1.1 to 1.6 times what is expected."""

    __slots__ = ("factor",)

    def __init__(self) -> None:
        self.factor = _LEAST

    def observe(self, *, kept: bool) -> None:
        """A request's turn has come: whether it was left as much time as it was admitted for."""
        step = -_STEP * BROKEN if kept else _STEP
        self.factor = min(_MOST, max(_LEAST, self.factor + step))
