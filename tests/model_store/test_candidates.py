"""Another execution provider runs a variant only when it answers as the CPU's does, and is the faster."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import candidates, profile
from model_store.candidates import distance, fastest, open_agreeing
from model_store.imaging import UInt8Array
from model_store.manifest import Precision
from model_store.profile import Quantiles
from model_store.runtime import CPU, ModelUnusable, OnnxSession, Scores, accelerators
from tests.model_store.test_runtime import tiny

OTHER = "OtherExecutionProvider"
MODEL = tiny(["N", 128, 128, 3], ["N", 3])


class Other(OnnxSession):
    """The CPU provider under another name, with its probabilities moved by `shift` to the last class."""

    shift = 0.0

    def __init__(self, model: bytes, threads: int = 1, **options: Any) -> None:
        super().__init__(model, threads)
        self.provider = options.get("provider", CPU)
        self.asked = (threads, options.get("callers"), options.get("resolution"))

    def run(self, images: UInt8Array) -> Scores:
        scores = super().run(images) / np.float32(765)  # the mean colours of a white picture sum to one
        scores[:, 0] -= self.shift
        scores[:, 2] += self.shift
        return scores


class Reference(Other):
    pass


class Broken(Other):
    def run(self, images: UInt8Array) -> Scores:
        raise RuntimeError("an operator is missing")


class NotANumber(Other):
    def run(self, images: UInt8Array) -> Scores:
        return np.full((len(images), 3), np.nan, np.float32)


class OtherShape(Other):
    def run(self, images: UInt8Array) -> Scores:
        return super().run(images)[:, :2]


def shifted(by: float) -> type[Other]:
    return type("Shifted", (Other,), {"shift": by})


def opened(kind: type[Other], monkeypatch: pytest.MonkeyPatch, precision: Precision = "fp32") -> OnnxSession:
    monkeypatch.setattr(candidates, "OnnxSession", kind)
    return open_agreeing(
        MODEL, Reference(MODEL), precision, OTHER,
        head="classification", resolution=128, threads=2, callers=3,
    )  # fmt: skip


def test_one_that_agrees_is_made_for_its_threads_and_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(Other, monkeypatch)
    assert isinstance(session, Other)
    assert (session.provider, session.asked) == (OTHER, (2, 3, 128))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Broken, "fails to run"),
        (NotANumber, "answers otherwise"),
        (OtherShape, "answers otherwise"),
        (shifted(0.002), "answers otherwise than the CPU: 0.002 apart"),
    ],
)
def test_one_that_fails_or_answers_otherwise_is_refused(
    kind: type[Other], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelUnusable, match=f"{OTHER} {says}"):
        opened(kind, monkeypatch)


def test_int8_may_round_otherwise_but_not_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(shifted(0.05), monkeypatch, "int8").provider == OTHER
    with pytest.raises(ModelUnusable, match="answers otherwise"):
        opened(shifted(0.15), monkeypatch, "int8")


def test_one_that_is_refused_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Other]] = []

    class Watched(Broken):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(MODEL)
            made.append(weakref.ref(self))

    with pytest.raises(ModelUnusable):
        opened(Watched, monkeypatch)
    assert [session() for session in made] == [None]


def test_a_provider_that_is_not_there_is_refused() -> None:
    missing = {"OpenVINOExecutionProvider", "CoreMLExecutionProvider", "ACLExecutionProvider"} - set(
        accelerators()
    )
    assert missing  # none has all of them
    for provider in missing:
        with pytest.raises(ModelUnusable, match=provider):
            OnnxSession(MODEL, provider=provider)


def test_the_faster_one_runs_unless_it_gains_too_little() -> None:
    def times(**p50: float) -> dict[str, Quantiles]:
        return {name: Quantiles(p50=ms, p95=2 * ms) for name, ms in p50.items()}

    assert fastest(times(CPUExecutionProvider=10)) == CPU
    assert fastest(times(CPUExecutionProvider=10, A=9.6, B=11)) == CPU
    assert fastest(times(CPUExecutionProvider=10, A=9.4, B=9.2)) == "B"


probabilities = st.lists(st.floats(0.001, 1), min_size=4, max_size=4).map(
    lambda weights: np.array([weights], np.float32) / np.float32(sum(weights))
)


@given(probabilities, probabilities)
def test_no_class_differs_by_more_than_the_distance(one: Scores, other: Scores) -> None:
    apart = distance(one, other)
    assert apart == pytest.approx(distance(other, one))
    assert np.abs(one - other).max() <= apart + 1e-6 <= 1 + 2e-6
    margin = np.diff(np.sort(one[0])[-2:])[0]
    assert margin <= 2 * apart + 1e-6 or one.argmax() == other.argmax()


def test_other_providers_and_other_versions_of_them_are_measured_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = set()
    for found in ({}, {OTHER: "1.0"}, {OTHER: "1.1"}, {OTHER: "1.1", "Third": ""}):
        monkeypatch.setattr(profile, "accelerators", lambda found=found: found)
        paths.add(profile.cache_path(tmp_path, "digest"))
    assert len(paths) == 4
