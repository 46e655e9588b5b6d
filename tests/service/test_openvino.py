"""OpenVINO's execution provider, where it is installed: the same answers, from as many threads as serve.

`make test-openvino` installs it and runs this file, and with REQUIRE_OPENVINO nothing is skipped.
"""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from bench.random_store import IDS, random_weights
from bench.server import running_server
from model_store.calibration import drawn_pictures
from model_store.candidates import distance, open_agreeing
from model_store.graph import build_classifier
from model_store.manifest import Precision
from model_store.quantize import quantize
from model_store.quantized_graph import build_quantized_classifier
from model_store.runtime import OnnxSession, accelerators
from tests.networks import pictures
from tests.service import pictures as encoded

OPENVINO = "OpenVINOExecutionProvider"
RESOLUTION = 128


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if OPENVINO not in accelerators():
        reason = "OpenVINO's provider is not installed, or its plugin has no device for this processor"
        if os.environ.get("REQUIRE_OPENVINO"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def models() -> dict[Precision, bytes]:
    weights = random_weights(0.5)
    quantized = quantize(weights, drawn_pictures(4, RESOLUTION))
    return {
        "fp32": build_classifier(weights),
        "int8": build_quantized_classifier(quantized),
    }


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_agrees_with_the_cpu_provider(precision: Precision, models: dict[Precision, bytes]) -> None:
    model = models[precision]
    reference = OnnxSession(model)
    session = open_agreeing(
        model, reference, precision, OPENVINO, head="classification", resolution=RESOLUTION
    )
    assert session.provider == OPENVINO
    images = pictures(3)
    together = session.run(images)
    assert distance(reference.run(images), together) < (1e-4 if precision == "fp32" else 0.1)
    alone = np.concatenate([session.run(image[np.newaxis]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_another_network_does_not_agree(models: dict[Precision, bytes]) -> None:
    """The limits would be worth nothing if a wrong answer passed them."""
    other = OnnxSession(build_classifier(random_weights(0.5, seed=1))).run(pictures())
    for model in models.values():
        assert distance(OnnxSession(model, provider=OPENVINO).run(pictures()), other) > 0.1


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_two_threads_get_their_own_answers(precision: Precision, models: dict[Precision, bytes]) -> None:
    session = OnnxSession(models[precision], provider=OPENVINO, callers=2)
    images = pictures(6)
    expected = np.concatenate([session.run(image[np.newaxis]) for image in images])
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            found = list(pool.map(lambda image: session.run(image[np.newaxis])[0], images))
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_two_callers_are_served_at_once_and_one_gets_one_thread(models: dict[Precision, bytes]) -> None:
    """By the threads that compute: a stream for each of two callers, none but the caller for one."""
    assert len(_computing(OnnxSession(models["fp32"], provider=OPENVINO, callers=2), callers=2)) == 2
    assert len(_computing(OnnxSession(models["fp32"], provider=OPENVINO), callers=1)) == 1


def _computing(session: OnnxSession, callers: int) -> list[float]:
    """CPU seconds of each thread that had at least a tenth of the work, those of the callers included."""
    own: dict[int, float] = {}
    picture = pictures(1)

    def call() -> None:
        for _ in range(100):
            session.run(picture)
        own[threading.get_native_id()] = time.thread_time()

    session.run(picture)
    before = _cpu_seconds()
    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = [seconds - before.get(thread, 0) for thread, seconds in (_cpu_seconds() | own).items()]
    return [seconds for seconds in used if seconds > 0.1 * sum(used)]


def _cpu_seconds() -> dict[int, float]:
    """Of each thread that lives. One that was joined may still be listed, and gone when its file is read."""
    seconds = {}
    for task in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            seconds[int(task.parent.name)] = int(task.read_text().split()[0]) / 1e9
    return seconds


def test_it_serves_where_it_is_the_faster(own_store: Path, tmp_path: Path) -> None:
    """Measured once; then the profile is made to say that OpenVINO is faster for one variant only."""
    state, log = tmp_path / "state", tmp_path / "log"
    picture = encoded.encode("JPEG")
    answers = []
    for turn in range(2):
        with running_server(own_store, state, log=log, threads="2") as server:
            listed = httpx.get(f"{server.base_url}/v1/variants").json()["variants"]
            answer = httpx.post(f"{server.base_url}/v1/classify?variant={IDS[0]}", content=picture)
            answers.append(answer.json()["predictions"])
        if turn == 0:
            (path,) = state.glob("profile-*.json")
            profile = json.loads(path.read_text())
            assert OPENVINO in profile["device"]
            for name in IDS:
                assert f"imagenet/{name}/{OPENVINO}" in profile["inference"]
                times = profile["inference"][f"imagenet/{name}/{OPENVINO}"]
                times["p50"] = profile["inference"][f"imagenet/{name}"]["p50"] * (
                    0.5 if name == IDS[0] else 2
                )
            path.write_text(json.dumps(profile))
    assert "measured" not in log.read_text()
    assert {v["id"]: v["provider"] == OPENVINO for v in listed} == {
        IDS[0]: True,
        IDS[1]: False,
        IDS[2]: False,
    }
    first, second = ({p["label"]: p["score"] for p in predictions} for predictions in answers)
    assert first == pytest.approx(second, abs=1e-4)
