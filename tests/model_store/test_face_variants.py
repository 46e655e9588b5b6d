"""Networks trained here, as variants of the store: what they answer, in float and in integers."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from model_store import build, tasks, trained
from model_store.cli import main
from model_store.faces import ATTRIBUTES, LABELS, split_scores
from model_store.manifest import AnyAccuracy, FaceAccuracy, VariantManifest
from model_store.ranking import expected_accuracies
from model_store.runtime import OnnxSession
from model_store.store import ModelStore
from model_store.trained import TrainedNetwork
from service.loading import load_catalog
from tests.model_store.training.networks import random_trained
from tests.model_store.training.tiny_run import make_data
from tests.networks import pictures

ID, TWIN = "mobilenet_v1_0.25_128_fp32", "mobilenet_v1_0.25_128_int8"
MEASURED = FaceAccuracy(
    mean_accuracy=0.9, mean_average_precision=0.7, age_error_years=5, dataset="faces", pictures=9
)


@pytest.fixture(scope="module")
def network() -> TrainedNetwork:
    return random_trained(0.25).rounded()


@pytest.fixture
def store(tmp_path: Path, network: TrainedNetwork) -> ModelStore:
    store = ModelStore(tmp_path / "store")
    task = tasks.ensure_task(store, "faces")
    provenance = build.Provenance(build.TRAINED_FORMAT, "0.25/trained.npz", "0" * 64, tasks.FACES_LICENCE)
    measured: dict[int, AnyAccuracy] = {128: MEASURED}
    installed = build.install_trained(store, task, network, provenance, measured=measured)
    assert [m.resolution for m in installed] == [128, 160]
    return store


def run(store: ModelStore, variant: str) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    session = ort.InferenceSession(store.open("faces", variant)[1])
    names = [v.name for v in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pictures(4)}), strict=True))


def test_scores_are_attributes_and_a_distribution_of_ages(store: ModelStore) -> None:
    scores = run(store, ID)["scores"]
    attributes, ages = split_scores(scores)
    assert scores.shape == (4, len(LABELS))
    assert (attributes > 0).all()
    assert (attributes < 1).all()
    np.testing.assert_allclose(ages.sum(axis=1), 1, rtol=1e-5)
    assert store.labels(store.task("faces")) == list(LABELS)


def test_features_are_what_the_head_reads(store: ModelStore, network: TrainedNetwork) -> None:
    found = run(store, ID)
    assert found["features"].shape == (4, 256)
    logits = found["features"] @ network.classifier.kernel.T + network.classifier.bias
    attributes = 1 / (1 + np.exp(-logits[:, : len(ATTRIBUTES)]))
    np.testing.assert_allclose(attributes, found["scores"][:, : len(ATTRIBUTES)], atol=1e-5)
    session = OnnxSession(store.open("faces", ID)[1])
    np.testing.assert_array_equal(session.features(pictures(4)), found["features"])


def test_the_int8_twin_answers_nearly_the_same_features_too(store: ModelStore) -> None:
    build.quantize_variant(store, store.task("faces"), ID)
    real, found = run(store, ID), run(store, TWIN)
    assert found["features"].dtype == np.float32
    np.testing.assert_allclose(found["features"], real["features"], atol=0.2)
    moved = np.abs(found["scores"] - real["scores"])[:, : len(ATTRIBUTES)]
    assert moved.mean() < 0.03
    np.testing.assert_allclose(found["scores"][:, len(ATTRIBUTES) :].sum(axis=1), 1, rtol=1e-5)


def test_the_int8_twin_is_in_standard_operators_that_the_runtime_reads_as_integers(
    store: ModelStore, tmp_path: Path
) -> None:
    build.quantize_variant(store, store.task("faces"), ID)
    model = store.open("faces", TWIN)[1]
    assert {node.domain for node in onnx.load_from_string(model).graph.node} == {""}
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # that it is for this processor only
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert (kinds.count("QLinearConv"), kinds.count("QGemm")) == (27, 1)
    assert kinds.count("DequantizeLinear") == 1  # of the features that are answered
    assert not {"Conv", "Gemm", "QuantizeLinear"} & set(kinds)


def test_the_service_loads_them_the_measured_one_first(store: ModelStore) -> None:
    catalog = load_catalog(store)
    assert (list(catalog.tasks), catalog.refused) == (["faces"], ())
    assert [v.id for v in catalog.tasks["faces"].variants] == [ID, ID.replace("128", "160")]


def test_a_variant_says_what_was_measured_and_for_what_it_may_be_used(store: ModelStore) -> None:
    manifest, _ = store.open("faces", ID)
    assert manifest.accuracy == manifest.measured == MEASURED
    assert "non-commercial" in manifest.licence
    again = VariantManifest.model_validate_json(manifest.model_dump_json())
    assert again == manifest
    assert expected_accuracies([manifest]) == {ID: 0.9}


def test_what_judges_looks_is_not_returned_unasked(store: ModelStore) -> None:
    returned = store.task("faces").returned
    assert "Attractive" not in returned
    assert "Smiling" in returned
    assert len(returned) == len(ATTRIBUTES) - 7


def test_commands_know_face_variants(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--store", str(store.root)]
    assert main(["verify", *where]) == 0
    assert main(["list", *where]) == 0
    assert "~90.0" in capsys.readouterr().out


def test_a_file_of_trained_weights_can_be_imported(tmp_path: Path, network: TrainedNetwork) -> None:
    file = tmp_path / "trained.npz"
    file.write_bytes(trained.save_bytes(network))
    command = ["import", str(file), "--task", "faces", "--store", str(tmp_path / "store")]
    assert main([*command, "--resolution", "160"]) == 0
    assert main([*command, "--resolution", "192"]) == 1  # it was not trained for that
    store = ModelStore(tmp_path / "store")
    assert [v.id for v in store.variants("faces")] == ["mobilenet_v1_0.25_160_fp32"]


def test_evaluate_counts_validation_pictures(
    store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path / "data")
    command = ["evaluate", "faces", "--images", str(tmp_path / "data"), "--variant", ID]
    assert main([*command, "--store", str(store.root), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (found,) = report["variants"]
    assert 2 <= report["pictures"] <= 30
    assert found["attribute_pictures"] + found["age_pictures"] <= report["pictures"]
    measured = store.open("faces", ID)[0].measured
    assert isinstance(measured, FaceAccuracy)
    assert measured.mean_accuracy == found["mean_accuracy"]
    assert main([*command, "--store", str(store.root), "--dry-run"]) == 0
    assert "age error" in capsys.readouterr().out
    assert main(["evaluate", "faces", "--images", str(tmp_path), "--store", str(store.root)]) == 1
    assert "celeba" in capsys.readouterr().err


def test_train_says_which_extra_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "model_store.training.grid", raising=False)
    command = ["train", "faces", "--data", str(tmp_path), "--work", str(tmp_path / "work")]
    assert main([*command, "--store", str(tmp_path / "store")]) == 1
    assert "install the extra `train`" in capsys.readouterr().err
