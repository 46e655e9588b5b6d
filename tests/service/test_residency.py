"""Sessions that come and go: which one is dropped, what is never dropped, and that its memory returns."""

import gc
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model_store.device import release_memory, resident_bytes
from model_store.imaging import UInt8Array
from model_store.manifest import VariantManifest
from model_store.runtime import OnnxSession, Scores
from model_store.store import ModelStore, VariantCorrupt
from service import errors
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.residency import OnDemand, Residency, held

MIB = 1 << 20
ROOM_FOR_TWO = MemoryBudget(24 * MIB, queue=0, decoding=100 * MIB)
PICTURE = np.zeros((1, 8, 8, 3), np.uint8)


class Opened:
    """Answers with its name; runs until it is let go, where the test holds it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, images: UInt8Array) -> str:
        return self.name


class Shelf:
    """Variants of 10 MiB, which take 12, and how often each was opened."""

    def __init__(self, manifest: VariantManifest, budget: MemoryBudget = ROOM_FOR_TWO) -> None:
        self.metrics = Metrics()
        self.residency = Residency(budget, self.metrics)
        self.opened: list[str] = []
        self._manifest = manifest

    def add(self, name: str, open_session: Callable[[], Opened] | None = None) -> OnDemand[str]:
        def opening() -> Opened:
            self.opened.append(name)
            return open_session() if open_session else Opened(name)

        return OnDemand(self.residency, [self._manifest], 10 * MIB, opening)


@pytest.fixture
def shelf(store_dir: Path) -> Shelf:
    return Shelf(manifest_of(store_dir))


def manifest_of(store_dir: Path) -> VariantManifest:
    manifest = ModelStore(store_dir).variants("imagenet")[0].manifest
    assert manifest is not None
    return manifest


def test_what_ran_least_recently_makes_room(shelf: Shelf) -> None:
    a, b, c = map(shelf.add, "abc")
    assert [each.run(PICTURE) for each in (a, b, a, c)] == ["a", "b", "a", "c"]
    assert [each.session is not None for each in (a, b, c)] == [True, False, True]
    assert shelf.opened == ["a", "b", "c"]
    b.run(PICTURE)
    assert [each.session is not None for each in (a, b, c)] == [False, True, True]
    text = shelf.metrics.text().decode()
    assert "mobilenet_variant_loads_total{" in text
    assert "} 4.0" in text.partition("mobilenet_variant_loads_total{")[2]
    assert "} 2.0" in text.partition("mobilenet_variant_drops_total{")[2]


def test_what_is_in_use_stays_and_who_needs_its_room_waits(shelf: Shelf) -> None:
    a, b, c = map(shelf.add, "abc")
    shelf.residency.take([a, b])
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(c.run, PICTURE)
        while not shelf.residency._opening.locked():
            pass
        assert not waiting.done()
        assert len(shelf.residency) == 2
        shelf.residency.give_back([a])
        assert waiting.result(timeout=30) == "c"
        assert a.session is None
        assert b.session is not None


def test_who_waits_for_room_is_not_overtaken_by_who_uses_it_again(shelf: Shelf) -> None:
    a, b, c = map(shelf.add, "abc")
    shelf.residency.take([a, b])
    with ThreadPoolExecutor(2) as others:
        waiting = others.submit(c.run, PICTURE)
        while not shelf.residency._waits_for_room:
            pass
        again = others.submit(a.run, PICTURE)
        shelf.residency.give_back([a])
        assert waiting.result(timeout=30) == "c"
        assert again.result(timeout=30) == "a"
    assert shelf.opened == ["a", "b", "c", "a"]


def test_two_that_run_together_are_loaded_even_where_they_do_not_fit_together(store_dir: Path) -> None:
    shelf = Shelf(manifest_of(store_dir), MemoryBudget(20 * MIB, queue=0, decoding=90 * MIB))
    a, b = map(shelf.add, "ab")
    with shelf.residency.hold([a, b]):
        assert held(a).run(PICTURE) + held(b).run(PICTURE) == "ab"


def test_of_several_that_ask_at_once_one_opens(shelf: Shelf) -> None:
    together = threading.Barrier(4)
    go_on = threading.Event()

    def slowly() -> Opened:
        go_on.wait(30)
        return Opened("a")

    a = shelf.add("a", slowly)

    def ask() -> str:
        together.wait(30)
        return a.run(PICTURE)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        go_on.set()
        assert [each.result(timeout=30) for each in asked] == ["a"] * 4
    assert shelf.opened == ["a"]


def test_two_are_held_together_or_not_at_all(shelf: Shelf) -> None:
    def broken() -> Opened:
        raise VariantCorrupt("its bytes are wrong")

    a, b = shelf.add("a"), shelf.add("b", broken)
    with pytest.raises(errors.NotReady) as refused, shelf.residency.hold([a, b]):
        pass
    assert "its bytes" not in str(refused.value)
    assert a.users == b.users == 0
    assert b.problem == "its bytes are wrong"
    assert b.load_ms == float("inf")
    assert a.load_ms == 0


def test_what_can_be_opened_again_is_no_longer_thought_lost(shelf: Shelf) -> None:
    """As where its file was restored: dropped once more it is expected to take what opening took."""
    failures = [VariantCorrupt("its bytes are wrong")]

    def mended() -> Opened:
        if failures:
            raise failures.pop()
        return Opened("a")

    a, b, c = shelf.add("a", mended), shelf.add("b"), shelf.add("c")
    with pytest.raises(errors.NotReady):
        a.run(PICTURE)
    assert a.load_ms == float("inf")
    for each in (a, b, c):
        each.run(PICTURE)
    assert a.session is None
    assert a.problem is None
    assert 0 < a.load_ms < 60_000


def test_what_is_always_there_is_never_dropped(shelf: Shelf) -> None:
    always, first, second, third = map(shelf.add, "1234")
    shelf.residency.settle([always], [first, second, third])
    assert [each.session is not None for each in (always, first, second, third)] == [True, True, False, False]
    for each in (second, third, first):
        each.run(PICTURE)
        assert always.session is not None
        assert len(shelf.residency) == 2


def test_opening_needs_room_too(store_dir: Path) -> None:
    """60 MiB of sessions hold five, and one while another is opened, which takes 50."""
    shelf = Shelf(manifest_of(store_dir), MemoryBudget(60 * MIB, queue=0, decoding=4 * MIB))
    several = [shelf.add(name) for name in "abc"]
    for each in several:
        each.run(PICTURE)
    assert [each.session is not None for each in several] == [False, True, True]
    assert shelf.residency.fits(several[0])


def test_what_can_never_be_opened_beside_the_others_does_not_fit(store_dir: Path) -> None:
    shelf = Shelf(manifest_of(store_dir), MemoryBudget(55 * MIB, queue=0, decoding=0))
    always, other = shelf.add("a"), shelf.add("b")
    shelf.residency.settle([always], [])
    assert shelf.residency.fits(always)
    assert not shelf.residency.fits(other)
    shelf.residency.settle([always], [other])
    assert other.session is None


@pytest.mark.skipif(resident_bytes() is None, reason="the system does not tell what is resident")
def test_the_memory_of_a_real_session_returns(store_dir: Path) -> None:
    """In a process of its own: what other tests told the C library to keep is for the whole process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(load_and_drop, store_dir).result(timeout=120)


def load_and_drop(store_dir: Path) -> None:
    """1.0_224, of 16 MiB; half of it is margin enough for whatever else the process does."""
    store = ModelStore(store_dir)
    found = max(store.variants("imagenet"), key=lambda v: v.size_bytes)
    assert found.manifest is not None
    manifest = found.manifest
    picture = np.zeros((1, manifest.resolution, manifest.resolution, 3), np.uint8)
    residency = Residency(MemoryBudget(30 * MIB, queue=0, decoding=100 * MIB), Metrics())  # for one of them

    def session() -> OnDemand[Scores]:
        return OnDemand(
            residency, [manifest], found.size_bytes, lambda: OnnxSession(store.open("imagenet", found.id)[1])
        )

    first, second = session(), session()
    expected = first.run(picture)  # and the runtime has its arena
    with_one = resident()
    for each in (second, first, second, first):
        assert np.array_equal(each.run(picture), expected)
        assert len(residency) == 1
    assert abs(resident() - with_one) < found.size_bytes / 2
    residency.settle([], [])
    assert len(residency) == 0
    assert with_one - resident() > found.size_bytes / 2


def resident() -> int:
    gc.collect()
    release_memory()
    found = resident_bytes()
    assert found is not None
    return found
