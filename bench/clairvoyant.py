"""What nobody can beat: an upper bound on goodput accuracy for a policy that knows all arrivals.

A linear program over a relaxation of the problem: work may be split, moved between workers at any moment and
done by several at once, a request may be answered by a mix of variants (the concave hull of accuracy over
work), and its window is widened to whole time slots. Every real schedule is one of its solutions.

A variant is possible where it fits the budget on an idle device. Its work is what a request takes of the
workers when all of them are busy, from the most requests a second that the device was seen to answer with it:
cores that share a cache or also read and answer requests do less than as many idle ones.
"""

import itertools

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import coo_array

Floats = npt.NDArray[np.float64]


def upper_bound(
    arrivals: Floats,
    budgets: Floats,
    idle_ms: Floats,
    works: Floats,
    top1: Floats,
    *,
    workers: int,
    slot_ms: float = 5.0,
) -> float:
    """The mean over all requests of top-1 where answered on time, at most.

    `arrivals` and `budgets` [n] in ms; `idle_ms` [n, variants] how long each variant takes on an idle device,
    `works` [n, variants] what it takes of a worker when all are busy; `top1` [variants].
    """
    first = (arrivals // slot_ms).astype(np.int64)
    last = ((arrivals + budgets) // slot_ms).astype(np.int64)
    windows, window_of = np.unique(np.stack([first, last], axis=1), axis=0, return_inverse=True)
    segments = [
        (request, length, gain)
        for request in range(len(arrivals))
        for length, gain in _hull(works[request], top1, idle_ms[request] <= budgets[request])
    ]
    # Variables: how far each segment is used (0 to 1), then the work of each window in each of its slots.
    spans = windows[:, 1] - windows[:, 0] + 1
    flow_window = np.repeat(np.arange(len(windows)), spans)
    offsets = np.arange(len(flow_window)) - np.repeat(np.cumsum(spans) - spans, spans)
    flow_slot = windows[flow_window, 0] + offsets
    slots, flow_row = np.unique(flow_slot, return_inverse=True)
    owner = window_of[[request for request, _, _ in segments]]
    lengths = np.array([length for _, length, _ in segments])
    gains = np.array([gain for _, _, gain in segments])
    used, flows = len(segments), len(flow_window)
    columns = np.arange(used + flows)
    # The work of a window's requests is what its slots do.
    balance = coo_array(
        (np.concatenate([lengths, -np.ones(flows)]), (np.concatenate([owner, flow_window]), columns)),
        shape=(len(windows), used + flows),
    )
    capacity = coo_array((np.ones(flows), (flow_row, columns[used:])), shape=(len(slots), used + flows))
    solved = linprog(
        np.concatenate([-gains, np.zeros(flows)]),
        A_ub=capacity.tocsr(), b_ub=np.full(len(slots), workers * slot_ms),
        A_eq=balance.tocsr(), b_eq=np.zeros(len(windows)),
        bounds=np.stack([np.zeros(used + flows), np.r_[np.ones(used), np.full(flows, np.inf)]], axis=1),
        method="highs",
    )  # fmt: skip
    if solved.status != 0:
        raise RuntimeError(f"the linear program was not solved: {solved.message}")
    return float(-solved.fun / len(arrivals))


def _hull(works: Floats, top1: Floats, fits: npt.NDArray[np.bool_]) -> list[tuple[float, float]]:
    """(work, accuracy) of each further step of the upper hull from nothing, of the variants that fit."""
    hull = [(0.0, 0.0)]
    for work, accuracy in sorted(zip(works[fits].tolist(), top1[fits].tolist(), strict=True)):
        if accuracy <= hull[-1][1]:
            continue
        while len(hull) > 1:
            (w0, a0), (w1, a1) = hull[-2], hull[-1]
            if (accuracy - a0) * (w1 - w0) < (a1 - a0) * (work - w0):
                break
            hull.pop()
        hull.append((work, accuracy))
    return [(w1 - w0, a1 - a0) for (w0, a0), (w1, a1) in itertools.pairwise(hull)]
