"""Arrivals, their shares of the workers' time, and its price."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from service.sharing import Arrivals, Chance, FairShares, WorkPrice


def test_without_a_known_share_there_is_no_limit() -> None:
    shares = FairShares()
    assert shares.limit_ms(math.inf) == math.inf
    shares.take(math.inf, 10)
    assert shares.limit_ms(5) == 5


@given(st.floats(1, 100), st.lists(st.floats(0.01, 10), min_size=1, max_size=200))
def test_what_is_left_of_a_share_is_for_the_next_within_half_a_share(
    share: float, works: list[float]
) -> None:
    shares = FairShares()
    for factor in works:
        before = shares.limit_ms(share)
        shares.take(share, factor * share)
        after = shares.limit_ms(share)
        assert after >= before - 1e-9 if factor <= 1 else after <= before + 1e-9
        assert 0.5 * share - 1e-9 <= after <= 1.5 * share + 1e-9


def test_steps_average_to_the_share() -> None:
    """Two variants, one below the share and one above: the mix fills the time, not one of them."""
    shares, total = FairShares(), 0.0
    for _ in range(4000):
        work = 12.0 if shares.limit_ms(10.0) >= 12.0 else 4.0
        shares.take(10.0, work)
        total += work
    assert total / 4000 == pytest.approx(10.0, rel=0.02)


@given(st.floats(0.1, 100))
def test_a_share_that_shrinks_takes_what_was_kept_with_it(share: float) -> None:
    shares = FairShares()
    for _ in range(100):
        shares.take(50.0, 0.1)
    shares.take(share, share)
    assert shares.limit_ms(share) <= 1.5 * share + 1e-9


def test_time_is_free_while_nothing_is_lost_and_costs_more_the_more_is_lost() -> None:
    price = WorkPrice(2)
    for i in range(100):
        price.worked(20, 10.0 * i)
    assert price.per_ms(1000) == 0
    price.lost(0.5, 0.2, 1000)
    once = price.per_ms(1000)
    price.lost(0.5, 0.2, 1000)
    assert 0 < once < price.per_ms(1000) == pytest.approx(2 * once)


def test_the_same_loss_weighs_more_where_less_work_was_done_for_it() -> None:
    prices = []
    for work in (12.0, 18.0):
        price = WorkPrice(2)
        for i in range(300):
            price.worked(work, 10.0 * i)
        price.lost(0.5, 0.2, 3000)
        prices.append(price.per_ms(3000))
    assert prices[0] == pytest.approx(1.5 * prices[1])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 30)), max_size=80))
def test_time_never_costs_more_than_what_is_made_of_it_best(events: list[tuple[float, float]]) -> None:
    price, now = WorkPrice(2), 0.0
    for accuracy, step in events:
        now += step
        price.worked(8, now)
        price.lost(accuracy, 0.1, now)
        assert 0 <= price.per_ms(now) <= 0.1 + 1e-9


def test_what_was_lost_is_forgotten_within_seconds() -> None:
    price = WorkPrice(2)
    for _ in range(100):
        price.lost(0.5, 0.1, 0)
    assert price.per_ms(0) == pytest.approx(0.1)
    assert price.per_ms(10_000) < 1e-5
    assert price.per_ms(9_000) == price.per_ms(10_000)  # time does not run backwards


def arrivals(every_ms: float, chances: Sequence[Chance], n: int = 64) -> tuple[Arrivals, float]:
    """`n` alike to two workers, and the time of the last one."""
    found, now = Arrivals(2), 0.0
    for _ in range(n):
        now += every_ms
        found.came(now, chances, 100.0)
    return found, now


def test_the_share_is_the_time_between_arrivals_and_follows_a_burst() -> None:
    found, now = arrivals(10.0, [], 63)
    assert found.share_ms(now) == math.inf  # too few to tell
    found, now = arrivals(10.0, [])
    assert found.share_ms(now + 10) == pytest.approx(20.0)
    for _ in range(12):
        now += 1.0
        found.came(now, [], 100.0)
    assert found.share_ms(now) == pytest.approx(2 * 1.5, rel=0.1)  # the mean of all says 16
    assert found.share_ms(now + 1000) > 20  # and then none came


def test_what_comes_a_little_faster_is_a_burst_once_there_are_more_of_it() -> None:
    found, now = arrivals(10.0, [])
    for _ in range(12):
        now += 6.0
        found.came(now, [], 100.0)
    assert found.share_ms(now) > 2 * 8  # chance has twelve come so fast
    for _ in range(12):
        now += 6.0
        found.came(now, [], 100.0)
    assert found.share_ms(now) == pytest.approx(2 * 1.3 * 6, rel=0.05)  # the mean of all says 17


def test_who_can_wait_loses_nothing_while_all_workers_are_busy() -> None:
    found, _ = arrivals(5.0, [Chance(12.0, 0.4), Chance(8.0, 0.2)])
    # The next one comes 5 ms after each, another 10 ms after it. Busy for more than 13 ms the first loses
    # 0.2, for more than 17 0.4 too, for more than 18 the second 0.2; from 22 and 23 ms on more is lost.
    assert [found.loss(ms) for ms in (0.0, 12.9, 16.0, 21.9)] == pytest.approx([0.0, 0.0, 0.2, 0.8], rel=0.05)


def test_those_who_come_together_lose_more_than_as_many_who_come_apart() -> None:
    apart, _ = arrivals(50.0, [Chance(5.0, 0.5)])
    together, now = Arrivals(2), 0.0
    for i in range(64):
        now += 1.0 if i % 8 else 393.0
        together.came(now, [Chance(5.0, 0.5)], 100.0)
    assert together.share_ms(now) < apart.share_ms(64 * 50.0)
    assert apart.loss(20.0) == 0
    assert together.loss(20.0) > 1


def test_nothing_is_known_of_losses_before_there_are_many() -> None:
    found, _ = arrivals(5.0, [Chance(0.0, 0.4)], 63)
    assert found.loss(50.0) == 0


def test_only_the_latest_arrivals_count() -> None:
    found, now = arrivals(1.0, [Chance(0.0, 0.4)])
    assert found.loss(50.0) > 1
    for _ in range(64):
        now += 200.0
        found.came(now, [Chance(0.0, 0.4)], 100.0)
    assert found.loss(50.0) == pytest.approx(0)


def test_a_burst_of_many_is_forgotten_too() -> None:
    """More of them within the time of one inference than are kept."""
    found, now = arrivals(0.1, [Chance(0.0, 0.4)], 300)
    assert found.loss(90.0) == pytest.approx(0.4 * 63 / 2)
    for _ in range(64):
        now += 200.0
        found.came(now, [Chance(0.0, 0.4)], 100.0)
    assert found.loss(90.0) == pytest.approx(0)


@settings(max_examples=50, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 60)), min_size=64, max_size=150),
    st.lists(st.floats(0, 90), min_size=1, max_size=4),
)
def test_losses_are_those_that_each_of_the_latest_arrivals_would_have_caused(
    requests: list[tuple[float, float]], busy: list[float]
) -> None:
    found, now, seen = Arrivals(2), 0.0, []
    for gap, wait in requests:
        now += gap
        seen.append((now, wait))
        found.came(now, [Chance(wait, 0.5)], 100.0)
    latest = seen[-64:]
    needed = [then - first + wait for i, (first, _) in enumerate(latest) for then, wait in latest[i + 1 :]]
    for ms in busy:
        # They are told apart in steps.
        least = sum(one < ms / 1.201 for one in needed) if ms > 1 else 0
        most = sum(one <= ms for one in needed)
        assert 0.5 * least / 64 - 1e-9 <= found.loss(ms) <= 0.5 * most / 64 + 1e-9
