"""The shares of the workers' time, and its price."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import sharing
from service.sharing import FairShares, WorkPrice


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


def test_the_dearer_the_time_the_less_is_worth_running() -> None:
    top1, works = [0.7, 0.6, 0.4], [30.0, 10.0, 4.0]
    best = []
    for price in (0.0, 0.004, 0.006, 0.04):
        values = sharing.net_values(top1, works, works, price, 2)
        best.append(values.index(max(values)))
    assert best == [0, 0, 1, 2]
    # With the threads of all workers it costs the time of all.
    values = sharing.net_values([0.7, 0.7], [30.0, math.inf], [33.0, 20.0], 0.01, 2)
    assert values == pytest.approx([0.4, 0.3])
