"""Which classes an answer names: the best of all, in a fixed order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.routes.classify import _best

# Few values, so that many are equal.
scores_lists = st.lists(st.integers(0, 6).map(lambda n: n / 8), min_size=1, max_size=60)


@given(scores_lists, st.integers(1, 60))
def test_they_are_the_first_of_all_in_order(scores: list[float], count: int) -> None:
    wanted = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    assert _best(np.array(scores, np.float32), count) == wanted


@pytest.mark.parametrize("count", [1, 5, 999, 1000])
def test_of_a_thousand(count: int) -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(1000)).astype(np.float32)
    assert _best(scores, count) == np.argsort(-scores, kind="stable")[:count].tolist()
