"""The self-test: what kills, hangs or is wrong is named, and the rest is tried all the same."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import random_store
from bench.random_store import random_weights
from model_store import golden
from model_store.device import cpu_model
from model_store.graph import build_classifier
from model_store.manifest import VariantManifest
from model_store.runtime import CPU, RUNTIME_VERSION, OnnxSession
from model_store.self_test import Subject, Verdict, run
from model_store.store import ModelStore

FAILING = Path(__file__).parents[1] / "failing_device"
OTHER = "BadExecutionProvider"
LARGE, SMALL = (Subject("imagenet", f"mobilenet_v1_{name}_fp32") for name in ("0.5_160", "0.25_128"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    store = random_store.fill(tmp_path_factory.mktemp("store"), ((0.5, 160), (0.25, 128)))
    return store.root


@pytest.fixture
def own_root(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "store"))


def failing(monkeypatch: pytest.MonkeyPatch, **how: str) -> None:
    """In the child."""
    monkeypatch.setattr(sys, "path", [str(FAILING), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(FAILING), prepend=":")
    monkeypatch.setenv("FAILING_DEVICE", json.dumps(how))


def expect(own_root: Path, subject: Subject, answers: dict[str, str]) -> None:
    store = ModelStore(own_root)
    manifest, _ = store.open(subject.task, subject.variant)
    store.update(manifest.model_copy(update={"golden": answers}))


def manifest_of(root: Path, subject: Subject) -> VariantManifest:
    return ModelStore(root).open(subject.task, subject.variant)[0]


def test_what_runs_and_answers_as_where_it_was_built_passes(root: Path) -> None:
    assert set(manifest_of(root, LARGE).golden) == {"slopes", "white"}
    assert dict(run(root, [LARGE, SMALL])) == {LARGE: Verdict("passed"), SMALL: Verdict("passed")}


@pytest.mark.parametrize("signal", ["SIGILL", "SIGABRT"])
def test_a_crash_names_the_variant_the_cpu_the_runtime_and_the_remedy(
    root: Path, signal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, **{"160": signal})
    found = dict(run(root, [LARGE, SMALL]))
    assert found[SMALL] == Verdict("passed")
    assert found[LARGE].outcome == "failed"
    for part in (
        f"its process was ended by {signal}",
        cpu_model(),
        RUNTIME_VERSION,
        "install another version",
    ):
        assert part in found[LARGE].problem


def test_one_that_hangs_is_left_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, **{"160": "hang"})
    found = dict(run(root, [LARGE, SMALL], seconds=4))
    assert "gives no answer within 4 s" in found[LARGE].problem
    assert found[SMALL] == Verdict("passed")


def test_one_that_is_killed_from_outside_is_not_blamed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, **{"160": "SIGKILL"})
    found = dict(run(root, [LARGE, SMALL]))
    assert found[LARGE].outcome == "untested"
    assert "ended by SIGKILL, as when memory runs out" in found[LARGE].problem
    assert found[SMALL] == Verdict("passed")


def test_where_no_child_can_be_started_nothing_is_blamed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    found = dict(run(root, [LARGE, SMALL]))
    assert [verdict.outcome for verdict in found.values()] == ["untested", "untested"]
    assert "no process can be started for it (No such file or directory)" in found[LARGE].problem
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    found = dict(run(root, [LARGE, SMALL]))
    assert "its process ended with exit code 1 before it began" in found[SMALL].problem


def test_a_wrong_answer_is_one_that_differs_from_where_it_was_built(own_root: Path) -> None:
    """The bytes are sound; the manifest has the answers of another network."""
    other = OnnxSession(build_classifier(random_weights(0.25, seed=1)))
    expect(own_root, SMALL, golden.answers(other, "classification", 128))
    found = dict(run(own_root, [SMALL, LARGE]))
    assert found[LARGE] == Verdict("passed")
    assert found[SMALL].outcome == "failed"
    assert re.search(
        r"its answer to 'slopes' is 0\.\d+ apart from that where it was built", found[SMALL].problem
    )


@pytest.mark.parametrize("answers", [{}, {"a picture of the future": "1 2 3"}])
def test_where_nothing_known_is_expected_it_is_enough_to_run(root: Path, answers: dict[str, str]) -> None:
    golden.check(opened(root), "classification", expecting(root, answers))


@pytest.mark.parametrize("answer", ["no number", "0.5 0.5", "", "nan " * 64])
def test_an_expectation_that_makes_no_sense_is_not_met(root: Path, answer: str) -> None:
    with pytest.raises(golden.WrongAnswer):
        golden.check(opened(root), "classification", expecting(root, {"white": answer}))


def expecting(root: Path, answers: dict[str, str]) -> VariantManifest:
    manifest, _ = ModelStore(root).open("imagenet", SMALL.variant)
    return manifest.model_copy(update={"golden": answers})


def opened(root: Path) -> OnnxSession:
    return OnnxSession(ModelStore(root).open(SMALL.task, SMALL.variant)[1])


def test_what_cannot_be_opened_is_left_to_whoever_opens_it(own_root: Path) -> None:
    (own_root / SMALL.task / SMALL.variant / "1" / "model.onnx").write_bytes(b"?")
    found = dict(run(own_root, [SMALL, LARGE]))
    assert found[SMALL].outcome == "unsound"
    assert "does not match its manifest" in found[SMALL].problem
    assert found[LARGE] == Verdict("passed")


def test_a_provider_that_crashes_is_tried_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, **{OTHER: "SIGSEGV"})
    started: list[object] = []

    class Counted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            started.append(arguments)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    others = [Subject(s.task, s.variant, OTHER) for s in (LARGE, SMALL)]
    found = dict(run(root, [LARGE, SMALL, *others]))
    assert [found[s].outcome for s in (LARGE, SMALL, *others)] == ["passed", "passed", "failed", "failed"]
    assert "ended by SIGSEGV" in found[others[1]].problem
    assert "uninstall the provider" in found[others[1]].problem
    assert len(started) == 1


def test_a_provider_that_refuses_one_variant_is_tried_with_the_next(root: Path) -> None:
    others = [Subject(s.task, s.variant, "NoSuchExecutionProvider") for s in (LARGE, SMALL)]
    found = dict(run(root, others))
    assert [verdict.outcome for verdict in found.values()] == ["failed", "failed"]
    assert all("NoSuchExecutionProvider" in verdict.problem for verdict in found.values())


def test_golden_pictures_are_the_same_bytes_everywhere() -> None:
    """Manifests of all stores depend on it."""
    drawn = golden.pictures(128)
    assert {name: picture.shape for name, picture in drawn.items()} == {
        "slopes": (1, 128, 128, 3),
        "white": (1, 128, 128, 3),
    }
    assert drawn["slopes"][0, [0, 1, 64, 127], [0, 2, 127, 127]].tolist() == SLOPES
    assert (drawn["white"] == 255).all()


SLOPES = [[0, 0, 255], [4, 2, 252], [254, 128, 64], [254, 254, 1]]


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (np.full((1, 1000), np.nan, np.float32), "no probabilities"),
        (np.full((1, 1000), -1e-3, np.float32), "no probabilities"),
        (np.full((1, 1000), 2e-3, np.float32), "sum to 2"),
    ],
)
def test_what_is_no_distribution_is_no_answer(root: Path, scores: np.ndarray, says: str) -> None:
    class Broken(OnnxSession):
        provider = CPU

        def __init__(self) -> None:
            pass

        def run(self, images: object) -> np.ndarray:
            return scores

    with pytest.raises(golden.WrongAnswer, match=says):
        golden.check(Broken(), "classification", expecting(root, {}))


def test_a_detector_is_tested_by_boxes_and_scores(face_store: ModelStore, tmp_path: Path) -> None:
    subject = Subject("face-detection", "ssd_mobilenet_v1_1.0_160_int8")
    assert dict(run(face_store.root, [subject])) == {subject: Verdict("passed")}
    own = ModelStore(Path(shutil.copytree(face_store.root, tmp_path / "own")))
    answers = manifest_of(own.root, subject).golden
    *scores, last = answers["slopes"].split()
    expect(own.root, subject, {"slopes": " ".join([*scores, str(float(last) + 0.1)])})
    ((_, verdict),) = run(own.root, [subject])
    assert "its answer to 'slopes' is 0.05 apart" in verdict.problem
