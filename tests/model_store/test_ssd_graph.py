"""The detector's graphs: float and integer agree, weights come back, a store with one in it stays usable."""

from pathlib import Path

import numpy as np
import pytest

from bench.server import running_server
from model_store import build, tasks
from model_store.calibration import drawn_pictures
from model_store.manifest import VariantManifest
from model_store.runtime import ModelUnusable, OnnxDetector, OnnxSession
from model_store.ssd import SsdSpec
from model_store.ssd_graph import build_detector, build_quantized_detector, read_detector
from model_store.ssd_quantize import quantize_detector
from model_store.ssd_weights import DetectorWeights, assemble
from model_store.store import ModelStore
from model_store.weights import LayerWeights, WeightsError
from tests.detectors import random_detector
from tests.model_store.console import Console

ID = "ssd_mobilenet_v1_1.0_160_fp32"
INT8 = "ssd_mobilenet_v1_1.0_160_int8"


@pytest.fixture(scope="module")
def weights() -> DetectorWeights:
    return random_detector()


@pytest.fixture(scope="module")
def store(weights: DetectorWeights, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    store = ModelStore(tmp_path_factory.mktemp("detector") / "store")
    install(store, weights)
    return store


def install(store: ModelStore, weights: DetectorWeights) -> VariantManifest:
    task = tasks.ensure_task(store, tasks.FACE_DETECTION.name)
    provenance = build.Provenance("random", "tests", "0" * 64, "none")
    manifest = build.install_detector(store, task, weights, provenance, resolution=160)
    build.quantize_variant(store, task, manifest.id)
    return manifest


def test_the_integer_network_predicts_what_the_float_one_does(weights: DetectorWeights) -> None:
    pictures = drawn_pictures(4, 160)
    expected = OnnxDetector(build_detector(weights, 160)).run(pictures)
    network = quantize_detector(weights, drawn_pictures(2, 160))
    found = OnnxDetector(build_quantized_detector(network, 160)).run(pictures)
    assert expected.scores.shape == (4, SsdSpec(160).anchors)
    assert np.abs(found.scores - expected.scores).mean() < 0.05
    assert np.corrcoef(found.scores.ravel(), expected.scores.ravel())[0, 1] > 0.9
    assert np.corrcoef(found.offsets.ravel(), expected.offsets.ravel())[0, 1] > 0.9


def test_weights_come_back_from_the_stores_model(weights: DetectorWeights) -> None:
    model = build_detector(weights, 224)
    assert build_detector(read_detector(model), 224) == model
    integers = build_quantized_detector(quantize_detector(weights, drawn_pictures(1, 160)), 160)
    with pytest.raises(WeightsError, match="not made by this program"):
        read_detector(integers)


def test_a_layer_that_is_missing_or_misshapen_is_named(weights: DetectorWeights) -> None:
    spec = SsdSpec(224)
    layers = dict(
        zip(
            [layer.name for layer in spec.layers],
            (*weights.convolutions, *weights.predictors),
            strict=True,
        )
    )
    with pytest.raises(WeightsError, match="no layer extra_3 of a face detector"):
        assemble({name: layer for name, layer in layers.items() if name != "extra_3"})
    odd = LayerWeights(layers["predictor_0"].kernel[1:], layers["predictor_0"].bias[1:])
    with pytest.raises(WeightsError, match="predictor_0 has a kernel of"):
        assemble({**layers, "predictor_0": odd})


def test_a_detector_is_no_classifier_and_a_classifier_no_detector(weights: DetectorWeights) -> None:
    model = build_detector(weights, 160)
    with pytest.raises(ModelUnusable, match=r"expected .* and `scores` float32 \[N, classes\]"):
        OnnxSession(model)


def test_every_command_knows_a_store_with_a_detector(
    store: ModelStore, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    console = Console(capsys)
    at = ("--store", str(store.root))
    assert {v["id"] for v in console.json("list", *at)["variants"]} == {ID, INT8}
    assert console("verify", *at)[0] == [f"ok      face-detection/{id}" for id in (ID, INT8)]
    assert {v["id"] for v in console.json("profile", *at)["variants"]} == {ID, INT8}
    assert (
        "answers boxes" in console("evaluate", "face-detection", "--images", str(tmp_path), *at, code=1)[1][0]
    )
    (again,) = console.json("quantize", "--task", "face-detection", *at)["installed"]
    assert (again["id"], again["quantized_from"]["variant"]) == (INT8, ID)


def test_the_service_serves_beside_a_detector(own_store_with_detector: Path, tmp_path: Path) -> None:
    import httpx

    with running_server(own_store_with_detector, tmp_path / "state") as server:
        found = httpx.get(f"{server.base_url}/v1/variants").json()["variants"]
        assert {v["task"] for v in found if v["loaded"]} == {"imagenet", "face-detection"}
        refused = httpx.post(f"{server.base_url}/v1/classify?task=face-detection", content=b"")
        assert refused.status_code == 404


@pytest.fixture
def own_store_with_detector(weights: DetectorWeights, tmp_path: Path) -> Path:
    from bench import random_store

    store = random_store.fill(tmp_path / "store", ((0.25, 128),))
    install(store, weights)
    return store.root
