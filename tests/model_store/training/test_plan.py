"""What a step does is known from the step."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from model_store.architecture import ALPHAS, RESOLUTIONS
from model_store.training.plan import Phase, Round, Training, full_grid

FIRST = Round((Phase(50, {128: 1.0}), Phase(150, {160: 0.25, 224: 0.75})), 1e-3, warm_up=0.06)
FINE_TUNING = Round((Phase(40, {224: 1.0}),), 2e-4)
TRAINING = Training(0.5, (FIRST, FINE_TUNING), weight_decay=0)


def test_the_rate_rises_and_falls_to_nothing_and_falls_again_in_the_next_round() -> None:
    rates = [TRAINING.rate(step) for step in range(TRAINING.steps)]
    assert len(rates) == 240
    first, last = rates[:200], rates[200:]
    top = first.index(max(first))
    assert max(first) == pytest.approx(1e-3)
    assert all(a < b for a, b in pairwise(first[: top + 1]))
    assert all(a >= b for a, b in pairwise(first[top:]))
    assert last[0] == pytest.approx(2e-4)
    assert all(a > b for a, b in pairwise(last))
    assert 0 < first[-1] < 1e-5
    assert 0 < last[-1] < 1e-5


def test_resolutions_come_as_often_as_they_should() -> None:
    assert {TRAINING.resolution(step, 1) for step in range(50)} == {128}
    found = Counter(TRAINING.resolution(step, 1) for step in range(50, 200))
    assert found.keys() == {160, 224}
    assert 20 <= found[160] <= 60
    assert {TRAINING.resolution(step, 1) for step in range(200, 240)} == {224}
    assert [TRAINING.resolution(s, 1) for s in (150, 60)] == [TRAINING.resolution(s, 1) for s in (150, 60)]
    assert [TRAINING.resolution(s, 2) for s in range(200)] != [TRAINING.resolution(s, 1) for s in range(200)]


def test_the_full_grid_trains_every_width_for_every_resolution() -> None:
    plan = full_grid()
    assert plan.teacher.alpha == ALPHAS[0]
    assert sorted(t.alpha for t in plan.pupils) == sorted(ALPHAS)
    assert plan.resolutions == RESOLUTIONS
    for training in (plan.teacher, *plan.pupils):
        for each in training.rounds:
            assert each.phases[-1].weights.keys() == set(RESOLUTIONS)


def test_what_is_trained_already_is_only_fine_tuned() -> None:
    again = replace(TRAINING, rounds=(FINE_TUNING,))
    assert again.steps == 40
    assert again.rate(0) == pytest.approx(2e-4)
    assert 0 < again.rate(39) < 1e-5
    assert {again.resolution(step, 1) for step in range(40)} == {224}


def test_after_the_last_step_there_is_no_rate() -> None:
    with pytest.raises(ValueError, match="ended"):
        TRAINING.rate(240)
