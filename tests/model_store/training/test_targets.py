"""Ages as distributions, and what is learnt of labels and of a teacher."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.faces import AGES, ATTRIBUTES, OUTPUTS, age_of, mean_age
from model_store.training.ages import distributions
from model_store.training.targets import distilled, from_labels

NAN = np.nan


@given(st.floats(8, 92))
def test_the_mean_of_a_label_is_the_label(years: float) -> None:
    bell = distributions(np.array([years]))
    assert bell.sum() == pytest.approx(1, abs=1e-5)
    assert mean_age(bell)[0] == pytest.approx(years, abs=0.05)


def test_the_oldest_count_as_the_last_year() -> None:
    np.testing.assert_array_equal(distributions(np.array([116.0])), distributions(np.array([100.0])))


@given(st.integers(AGES[0], AGES[-1]), st.integers(AGES[0], AGES[-1]))
def test_an_interval_holds_four_fifths(one: int, other: int) -> None:
    ages = (distributions(np.array([one]))[0] + distributions(np.array([other]))[0]) / 2
    age = age_of(ages)
    assert age.low <= age.high
    # The ends cut years in two.
    inside = sum(
        p * max(0.0, min(age.high, year + 0.5) - max(age.low, year - 0.5))
        for year, p in zip(AGES, ages, strict=True)
    )
    assert inside == pytest.approx(0.8, abs=1e-4)


def test_a_certain_age_has_a_narrow_interval() -> None:
    ages = np.zeros(len(AGES), np.float32)
    ages[AGES.index(30)] = 1
    age = age_of(ages)
    assert (age.years, round(age.low, 6), round(age.high, 6)) == (30, 29.6, 30.4)


def test_labels_count_where_there_are_some() -> None:
    attributes = np.full((2, len(ATTRIBUTES)), NAN, np.float32)
    attributes[0] = 1
    targets = from_labels(attributes, np.array([NAN, 40], np.float32))
    assert targets.attributes_known.tolist() == [1, 0]
    assert targets.ages_known.tolist() == [0, 1]
    assert targets.attributes[0].tolist() == [1] * 40
    assert not targets.attributes[1].any()
    assert not targets.ages[0].any()
    assert np.isfinite(targets.ages).all()


def test_a_pupil_learns_of_all_pictures_and_the_label_pulls_where_there_is_one() -> None:
    attributes = np.full((2, len(ATTRIBUTES)), NAN, np.float32)
    attributes[0] = 1
    labels = from_labels(attributes, np.array([NAN, 40], np.float32))
    scores = np.full((2, OUTPUTS), 0.5, np.float32)
    scores[:, len(ATTRIBUTES) :] = 1 / len(AGES)
    targets = distilled(labels, scores, share=0.75)
    assert targets.attributes_known.tolist() == targets.ages_known.tolist() == [1, 1]
    np.testing.assert_allclose(targets.attributes[:, 0], [0.75 * 0.5 + 0.25, 0.5])
    np.testing.assert_allclose(targets.ages.sum(axis=1), 1, rtol=1e-5)
    assert mean_age(targets.ages)[0] == pytest.approx(50.5, abs=0.01)
    assert mean_age(targets.ages)[1] == pytest.approx(0.75 * 50.5 + 0.25 * 40, abs=0.01)
    with pytest.raises(ValueError, match="3 pictures"):
        distilled(from_labels(attributes[[0, 0, 0]], np.full(3, NAN, np.float32)), scores)
