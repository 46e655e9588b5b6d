"""Metrics against answers that are known by hand."""

import numpy as np
import pytest

from model_store.faces import AGES, ATTRIBUTES, OUTPUTS
from model_store.training.metrics import FaceMetrics, average_precision, measure

NAN = np.nan


def test_average_precision_by_hand() -> None:
    truth = np.array([True, False, True, False])
    answers = np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    assert average_precision(answers, truth) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(-answers, truth) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert np.isnan(average_precision(answers, np.zeros(4, bool)))


def test_each_figure_counts_the_pictures_that_have_its_label() -> None:
    attributes = np.full((5, len(ATTRIBUTES)), NAN, np.float32)
    attributes[:2] = 0
    attributes[0, 0] = attributes[1, 1] = 1
    ages = np.array([NAN, NAN, 20, 30, 95], np.float32)  # the last is older than what counts
    scores = np.zeros((5, OUTPUTS), np.float32)
    scores[0, 0] = 0.9  # right
    scores[1, 2] = 0.8  # one missed, one wrong
    for row, year in ((2, 24), (3, 28), (4, 50)):
        scores[row, len(ATTRIBUTES) + AGES.index(year)] = 1
    found = measure(scores, attributes, ages)
    assert (found.attribute_pictures, found.age_pictures) == (2, 2)
    assert found.mean_accuracy == pytest.approx(78 / 80)
    assert found.accuracy[ATTRIBUTES[0]] == 1
    assert found.accuracy[ATTRIBUTES[1]] == found.accuracy[ATTRIBUTES[2]] == 0.5
    assert found.age_error_years == pytest.approx(3)
    assert found.age_error_half == pytest.approx(1.96 * 1 / np.sqrt(2))
    assert found.age_in_interval == 0  # both are sure of a year, and wrong
    assert found.majority[ATTRIBUTES[0]] == 0.5
    assert found.majority[ATTRIBUTES[3]] == 1


def test_the_interval_of_the_average_precision_is_what_other_pictures_would_give() -> None:
    rng = np.random.default_rng(0)

    def found(pictures: int) -> FaceMetrics:
        attributes = (rng.random((pictures, len(ATTRIBUTES))) < 0.3).astype(np.float32)
        scores = np.zeros((pictures, OUTPUTS), np.float32)
        scores[:, : len(ATTRIBUTES)] = attributes * 0.3 + rng.random(attributes.shape) * 0.7
        return measure(scores, attributes, np.full(pictures, 30, np.float32))

    measured = [found(300) for _ in range(10)]
    name = ATTRIBUTES[0]
    spread = 1.96 * np.std([m.average_precision[name] for m in measured])
    assert np.mean([m.average_precision_half[name] for m in measured]) == pytest.approx(spread, rel=0.4)
    spread = 1.96 * np.std([m.mean_average_precision for m in measured])
    assert np.mean([m.mean_average_precision_half for m in measured]) == pytest.approx(spread, rel=0.4)
    assert found(1200).mean_average_precision_half < 0.7 * measured[0].mean_average_precision_half
