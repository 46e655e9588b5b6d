"""Sessions that come and go, where memory does not hold all of them.

A plan has an `OnDemand` in place of its session then, which is opened when it is to run and is not there; for
that others are dropped, the one that ran least recently first, and never one that is in use. Without a limit,
or where all fit, nothing of this is there.
"""

import contextlib
import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from model_store.device import release_memory
from model_store.imaging import UInt8Array
from model_store.manifest import VariantManifest
from model_store.runtime import CPU, ModelUnusable
from model_store.store import StoreError
from service import errors
from service.memory import MemoryBudget, session_bytes
from service.metrics import Metrics

log = logging.getLogger(__name__)

Answer = TypeVar("Answer", covariant=True)
TOO_LARGE = "it takes more memory than the limit leaves for variants (MOBILENET_MEMORY_LIMIT_MB)"
_ALWAYS = contextlib.nullcontext()
_REMEMBERED = 4  # openings, the slowest of which the next one is expected to take


class Opened(Protocol[Answer]):
    """A session of any head, in memory."""

    def run(self, images: UInt8Array) -> Answer: ...


class OnDemand(Generic[Answer]):
    """A session of any head that is in memory, or is opened to run: on the CPU's provider, whose memory
    returns."""

    provider = CPU

    def __init__(
        self,
        residency: "Residency",
        variants: list[VariantManifest],
        file_bytes: int,
        open_session: Callable[[], Opened[Answer]],
    ) -> None:
        self.residency = residency
        self.variants = variants  # that it runs: their models are the same
        self.file_bytes, self.bytes = file_bytes, session_bytes(file_bytes)
        self.problem: str | None = None  # why it could not be opened the last time
        # All that follows is the residency's, and changes under its lock.
        self.open_session = open_session
        self.session: Opened[Answer] | None = None
        self.users = 0
        self.opened_ms: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def load_ms(self) -> float:
        """How long it will be until it can run: none in memory, infinite when it could not be opened the
        last time."""
        if self.session is not None:
            return 0.0
        return max(self.opened_ms, default=0.0) if self.problem is None else math.inf

    def run(self, images: UInt8Array) -> Answer:
        """As of what is opened. Raises NotReady where that fails."""
        with self.residency.hold([self]):
            assert self.session is not None  # noqa: S101  (it is held)
            return self.session.run(images)


class Residency:
    """Of one process: sessions within a budget, by the estimates of `service.memory`."""

    def __init__(self, budget: MemoryBudget, metrics: Metrics) -> None:
        self._budget = budget
        self._metrics = metrics
        self._opening = threading.Lock()  # one at a time: it takes several times what the session will
        self._changed = threading.Condition()
        self._resident: OrderedDict[OnDemand[object], None] = OrderedDict()  # the latest used last
        self._always: frozenset[OnDemand[object]] = frozenset()
        self._waits_for_room = False

    def __len__(self) -> int:
        """How many are in memory."""
        return len(self._resident)

    @contextlib.contextmanager
    def hold(self, wanted: Sequence[OnDemand[object]]) -> Iterator[None]:
        """Keeps them in memory meanwhile; what is not there is opened first, which may take seconds.

        Who holds some must neither hold nor run others: the two could wait for each other's memory. Raises
        NotReady.
        """
        try:
            self.take(wanted)
        except (StoreError, ModelUnusable) as error:
            raise errors.NotReady("a variant that was not in memory cannot be loaded any more") from error
        try:
            yield
        finally:
            self.give_back(wanted)

    def take(self, wanted: Sequence[OnDemand[object]]) -> None:
        """Opens what is not there; all are in use until they are given back. Raises StoreError and
        ModelUnusable, and then nothing is in use."""
        with self._changed:
            # Whoever waits for room would wait for ever, if what is in use were taken again and again.
            free = not self._waits_for_room or self._always.issuperset(wanted)
            if free and all(each.session is not None for each in wanted):
                self._use(wanted)
                return
        with self._opening:
            with self._changed:
                taken = [each for each in wanted if each.session is not None]
                self._use(taken)
            try:
                for each in wanted:
                    if each not in taken:
                        self._open(each, taken)
                        taken.append(each)
            except BaseException:
                self.give_back(taken)
                raise

    def take_resident(self, wanted: OnDemand[object]) -> bool:
        """As `take`, where it is in memory, and whether it is; waits for nothing."""
        with self._changed:
            there = wanted.session is not None
            if there:
                self._use([wanted])
        return there

    def give_back(self, taken: Sequence[OnDemand[object]]) -> None:
        with self._changed:
            for each in taken:
                each.users -= 1
            self._changed.notify_all()

    def settle(self, always: Collection[OnDemand[object]], order: Sequence[OnDemand[object]]) -> None:
        """Before serving: has `always` in memory, from now on for good, and of `order` what fits, the first
        ones first."""
        self._always = frozenset(always)
        chosen = list(dict.fromkeys(always))
        for each in dict.fromkeys(order):  # variants may share one
            if each in chosen:
                continue
            taken = sum(other.bytes for other in chosen)
            if self.fits(each) and taken + each.bytes <= self._budget.sessions:
                chosen.append(each)
        with self._changed:
            for each in [each for each in self._resident if each not in chosen]:
                self._drop(each)
        release_memory()
        for each in reversed(chosen):  # the first ones are to be dropped last
            with self.hold([each]):
                pass

    def fits(self, session: OnDemand[object]) -> bool:
        """Whether it ever does, beside those that are always there."""
        return session in self._always or not self._over(session, self._always)

    def _use(self, taken: Sequence[OnDemand[object]]) -> None:
        for each in taken:
            each.users += 1
            self._resident.move_to_end(each)

    def _open(self, session: OnDemand[object], beside: Collection[OnDemand[object]]) -> None:
        """To be used together with those `beside` it, which are in use already."""
        dropped = self._make_room(session, beside)
        started = time.perf_counter()
        if dropped:
            dropped.clear()
            release_memory()
        try:
            opened = session.open_session()
        except (StoreError, ModelUnusable) as error:
            session.problem = str(error)
            for each in session.variants:
                log.error("%s of %s cannot be loaded again: %s", each.id, each.task, error)
            raise
        release_memory()  # what opening took besides
        with self._changed:
            session.session, session.users, session.problem = opened, 1, None
            self._resident[session] = None
            session.opened_ms.append((time.perf_counter() - started) * 1e3)
        for each in session.variants:
            self._metrics.loaded(each)

    def _make_room(
        self, session: OnDemand[object], beside: Collection[OnDemand[object]]
    ) -> list[Opened[object]]:
        """What has to go for it to be opened: the memory returns once the caller has forgotten it too.

        Waits for what is in use as long as there is no room; what is used together is opened all the same.
        """
        dropped = []
        with self._changed:
            while self._over(session, self._resident):
                stay = {*self._always, *beside}
                others = [each for each in self._resident if each not in stay]
                idle = [each for each in others if not each.users]
                if idle:
                    dropped.append(self._drop(idle[0]))
                elif others:
                    self._waits_for_room = True
                    self._changed.wait()
                else:
                    break
            self._waits_for_room = False
        return dropped

    def _over(self, session: OnDemand[object], others: Collection[OnDemand[object]]) -> bool:
        """Whether it and the others are too much, once it is there or while it is opened."""
        all_bytes = session.bytes + sum(each.bytes for each in others)
        return not self._budget.holds(all_bytes, session.file_bytes)

    def _drop(self, session: OnDemand[object]) -> Opened[object]:
        del self._resident[session]
        opened, session.session = session.session, None
        assert opened is not None  # noqa: S101  (it was resident)
        for each in session.variants:
            self._metrics.dropped(each)
        return opened


def on_demand(*sessions: object) -> tuple[OnDemand[object], ...]:
    """Those of the sessions that come and go."""
    return tuple(each for each in sessions if isinstance(each, OnDemand))


def resident(session: Opened[Answer] | OnDemand[Answer]) -> Opened[Answer] | None:
    """What it is at this moment, which can be run even when it is dropped meanwhile; None when it is not in
    memory."""
    return session.session if isinstance(session, OnDemand) else session


def held(session: Opened[Answer] | OnDemand[Answer]) -> Opened[Answer]:
    """What it is, within `in_memory`."""
    found = resident(session)
    assert found is not None  # noqa: S101  (it is held)
    return found


@contextlib.contextmanager
def kept(session: object) -> Iterator[None]:
    """Keeps it in memory meanwhile, if it is there. It waits for nothing, so that who holds others may."""
    taken = [each for each in on_demand(session) if each.residency.take_resident(each)]
    try:
        yield
    finally:
        for each in taken:
            each.residency.give_back([each])


def in_memory(sessions: Sequence[OnDemand[object]]) -> contextlib.AbstractContextManager[None]:
    """See `Residency.hold`; all are of the same."""
    return sessions[0].residency.hold(sessions) if sessions else _ALWAYS
