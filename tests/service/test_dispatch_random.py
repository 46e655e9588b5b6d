"""The dispatcher under random operations and workloads: limits hold, and everyone is answered once."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.jobs import Assignment, Job, Refusal
from service.latency import ANSWER_MS
from tests.service.dispatching import (
    dispatcher,
    finished,
    job,
)

_OPERATION = st.tuples(
    st.sampled_from(["admit", "admit", "next", "finish", "cancel"]),
    st.integers(0, 1000),
    st.none() | st.floats(0.5, 300),
    st.booleans(),
    st.none() | st.integers(0, 3),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(_OPERATION, max_size=120), st.integers(1, 6), st.integers(1, 2000))
def test_limits_hold_exactly_and_the_counters_are_those_of_the_queue(
    operations: list[tuple[str, int, float | None, bool, int | None]], max_length: int, max_bytes: int
) -> None:
    d = dispatcher(2, max_length, max_bytes)
    waiting: list[Job] = []
    running: list[Assignment] = []
    now = 0.0
    for operation, number, budget, reject, pinned in operations:
        now += number / 50
        if operation == "admit":
            new = job(budget, now, size=number, reject=reject, pinned=pinned)
            room = len(waiting) < max_length and d.queued_bytes + number <= max_bytes
            refusal = d.admit(new, now)
            if refusal is None:
                assert room
                waiting.append(new)
            else:
                assert (refusal.reason == "full") == (not room)
                assert refusal.reason == "full" or reject
                assert 0 < refusal.retry_after_ms < math.inf
        elif operation == "next" and len(running) < d.workers:
            taken = d.next(now)
            if taken is None:
                assert not waiting
            elif isinstance(taken, Job):
                assert taken.reject_late
                assert taken.deadline is not None
                assert taken.deadline <= now
                waiting.remove(taken)
            else:
                waiting.remove(taken.job)
                running.append(taken)
        elif operation == "finish" and running:
            finished(d, running.pop(number % len(running)), now + 0.1)
        elif operation == "cancel" and waiting:
            gone = waiting.pop(number % len(waiting))
            assert d.cancel(gone)
            assert not d.cancel(gone)
        assert len(d) == len(waiting) <= max_length
        assert d.queued_bytes == sum(j.size_bytes for j in waiting) <= max_bytes
        assert d.running == len(running)


class Run:
    """All of one random workload; what became of each job, by its number."""

    def __init__(self, workers: int, max_length: int, *, preempts: bool = False) -> None:
        self.d = dispatcher(workers, max_length, preempts=preempts)
        self.ahead = 0
        self.admitted: list[int] = []
        self.refused: list[Refusal] = []
        self.on_time: list[int] = []
        self.late: list[int] = []
        self.expired: list[int] = []
        self.wrong_pins = 0
        self._ends: list[tuple[float, int, Assignment]] = []
        self._serial = 0

    def arrive(self, new: Job, now: float) -> None:
        self.until(now)
        refusal = self.d.admit(new, now)
        if refusal is None:
            self.admitted.append(new.payload)
        else:
            assert refusal.reason == "full" or new.reject_late
            self.refused.append(refusal)
        self._fill(now)

    def until(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            end, _, done = self._ends.pop(0)
            finished(self.d, done, end)
            deadline = done.job.deadline
            in_time = deadline is None or end + ANSWER_MS <= deadline
            (self.on_time if in_time else self.late).append(done.job.payload)
            self._fill(end)

    def _fill(self, now: float) -> None:
        if (ahead := self.d.next_ahead()) is not None:
            assert self.d.running == self.d.workers
            assert sum(done.ahead_of is not None for _, _, done in self._ends) == 0
            held_up = ahead.ahead_of
            assert held_up is not None
            assert held_up in [done.job for _, _, done in self._ends]
            self.ahead += 1
            self._run(ahead, now, 1.3)
            service = ahead.expected.service_ms
            self._ends = [(end + service * (a.job is held_up), n, a) for end, n, a in self._ends]
            self._ends.sort(key=lambda e: e[:2])
        while self.d.running < self.d.workers:
            taken = self.d.next(now)
            if taken is None:
                assert len(self.d) == 0
                return
            if isinstance(taken, Job):
                assert taken.reject_late
                assert taken.deadline is not None
                assert taken.deadline <= now
                self.expired.append(taken.payload)
                continue
            # 0.8 to 1.3 of what is expected, the same for the same place in the sequence
            self._run(taken, now, 0.8 + 0.5 * (self._serial * 0.618 % 1))

    def _run(self, taken: Assignment, now: float, factor: float) -> None:
        self.wrong_pins += taken.job.pinned not in (None, taken.index)
        self._serial += 1
        self._ends.append((now + factor * taken.expected.service_ms, self._serial, taken))
        self._ends.sort(key=lambda e: e[:2])


_REQUEST = st.tuples(
    st.floats(0, 12),  # since the one before
    st.none() | st.sampled_from([1.0, 5.0, 15.0, 30.0, 60.0, 250.0]),
    st.none() | st.none() | st.none() | st.integers(0, 3),
    st.booleans(),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(_REQUEST, max_size=150), st.integers(1, 3), st.integers(1, 30), st.booleans())
def test_every_request_has_one_fate(
    requests: Sequence[tuple[float, float | None, int | None, bool]],
    workers: int,
    max_length: int,
    preempts: bool,
) -> None:
    run, now = Run(workers, max_length, preempts=preempts), 0.0
    best_effort = set()
    for i, (gap, budget, pinned, reject) in enumerate(requests):
        now += gap
        run.arrive(job(budget, now, pinned=pinned, reject=reject, payload=i), now)
        if not reject:
            best_effort.add(i)
    run.until(math.inf)
    fates = Counter(run.on_time + run.late + run.expired)
    assert fates == Counter(run.admitted)
    assert len(run.admitted) + len(run.refused) == len(requests)
    assert not best_effort & set(run.expired)
    assert all(0 < r.retry_after_ms < math.inf for r in run.refused)
    assert run.wrong_pins == 0
    assert (len(run.d), run.d.queued_bytes, run.d.running) == (0, 0, 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1 << 30), st.floats(0.3, 4), st.booleans())
def test_long_mixed_overload(seed: int, load: float, preempts: bool) -> None:
    rng = np.random.default_rng(seed)
    run, now = Run(2, 64, preempts=preempts), 0.0
    budgets = [None, 5.0, 15.0, 30.0, 120.0]
    for i in range(400):
        now += float(rng.exponential(17 / 2 / load))
        budget = budgets[rng.integers(len(budgets))]
        run.arrive(job(budget, now, reject=bool(rng.random() < 0.5), payload=i), now)
    run.until(math.inf)
    assert (run.ahead > 0) == preempts
    assert Counter(run.on_time + run.late + run.expired) == Counter(run.admitted)
    assert all(0 < r.retry_after_ms < math.inf for r in run.refused)
