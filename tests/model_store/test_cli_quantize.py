"""`model-store quantize`, and quantised files that `import` brings in."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bench import random_store
from model_store import build
from model_store.manifest import Accuracy
from model_store.quantize import METHOD
from model_store.runtime import OnnxSession
from model_store.store import ModelStore
from tests.model_store.console import Console
from tests.model_store.tflite_files import write_tflite
from tests.networks import RandomNetwork, pictures

FLOAT, INT8 = (f"mobilenet_v1_0.25_128_{precision}" for precision in ("fp32", "int8"))
OTHER_FLOAT, OTHER_INT8 = (f"mobilenet_v1_0.25_160_{precision}" for precision in ("fp32", "int8"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quantize") / "store"
    random_store.fill(root, ((0.25, 128), (0.25, 160)))
    return root


@pytest.fixture
def store(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """Two random fp32 variants, in the store that MOBILENET_STORE names."""
    root = tmp_path / "store"
    shutil.copytree(filled, root)
    monkeypatch.setenv("MOBILENET_STORE", str(root))
    return ModelStore(root)


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(capsys)


@pytest.fixture
def quantised_file(network: RandomNetwork, tmp_path: Path) -> Path:
    return write_tflite(tmp_path / "quant.tflite", network, storage="uint8")


def ids(store: ModelStore) -> list[str]:
    return [v.id for v in store.variants()]


def test_all_fp32_variants_get_a_twin(store: ModelStore, console: Console) -> None:
    out, err = console("quantize")
    assert out == [
        f"installed imagenet/{id} (random, random_store.py, trained at 224, quantised)"
        for id in (INT8, OTHER_INT8)
    ]
    assert err == []
    assert ids(store) == [FLOAT, INT8, OTHER_FLOAT, OTHER_INT8]
    console("verify")
    source, _ = store.open("imagenet", FLOAT)
    manifest, model = store.open("imagenet", INT8)
    assert manifest.quantized_from is not None
    assert (manifest.quantized_from.variant, manifest.quantized_from.sha256) == (FLOAT, source.sha256)
    assert manifest.quantized_from.method == METHOD
    assert (manifest.precision, manifest.accuracy, manifest.measured) == ("int8", None, None)
    assert (manifest.origin, manifest.licence) == (source.origin, source.licence)
    assert OnnxSession(model).run(pictures(1)).shape == (1, 1000)


def test_a_named_variant_alone(store: ModelStore, console: Console) -> None:
    found = console.json("quantize", OTHER_FLOAT)
    assert [v["id"] for v in found["installed"]] == [OTHER_INT8]
    assert found["installed"][0]["quantized_from"]["variant"] == OTHER_FLOAT
    assert ids(store) == [FLOAT, OTHER_FLOAT, OTHER_INT8]


def test_again_gives_the_same_and_keeps_what_was_measured(store: ModelStore, console: Console) -> None:
    console("quantize", FLOAT)
    manifest, model = store.open("imagenet", INT8)
    measured = Accuracy(top1=0.5, top5=0.6, source="measured", dataset="mine", pictures=10)
    store.update(manifest.with_measured(measured))
    console("quantize", FLOAT)
    assert store.open("imagenet", INT8) == (manifest.with_measured(measured), model)


def test_what_cannot_be_quantised_is_said_in_one_line(store: ModelStore, console: Console) -> None:
    assert f"no variant 'mobilenet_v1_1.0_224_fp32' of imagenet; the store has: {FLOAT}" in console.failure(
        "quantize", "mobilenet_v1_1.0_224_fp32"
    )
    console("quantize", FLOAT)
    assert "is int8 already; only fp32 variants can be quantised" in console.failure("quantize", INT8)
    path = store.root / "imagenet" / FLOAT / "1" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    assert "does not match its manifest" in console.failure("quantize", FLOAT)
    assert "has no task 'faces'" in console.failure("quantize", "--task", "faces")
    for variant in (FLOAT, OTHER_FLOAT):
        shutil.rmtree(store.root / "imagenet" / variant)
    assert "has no fp32 variants to quantise" in console.failure("quantize")


def test_a_quantised_file_is_imported_as_it_is(
    store: ModelStore, quantised_file: Path, console: Console
) -> None:
    found = console.json("import", quantised_file)
    assert [v["id"] for v in found["installed"]] == [INT8]
    manifest, _ = store.open("imagenet", INT8)
    assert manifest.quantized_from is None
    assert manifest.origin.format == "TensorFlow Lite"
    console("quantize")  # leaves alone what it did not make
    assert store.open("imagenet", INT8)[0] == manifest
    console("quantize", FLOAT)  # unless told
    assert store.open("imagenet", INT8)[0].quantized_from is not None


def test_dequantised_where_asked(store: ModelStore, quantised_file: Path, console: Console) -> None:
    before = store.open("imagenet", FLOAT)[0].sha256
    found = console.json("import", quantised_file, "--dequantize")
    assert [v["id"] for v in found["installed"]] == [FLOAT]
    _, model = store.open("imagenet", FLOAT)
    assert store.open("imagenet", FLOAT)[0].sha256 != before
    assert ids(store) == [FLOAT, OTHER_FLOAT]
    console.json("import", quantised_file)
    _, quantised = store.open("imagenet", INT8)
    floats, integers = (OnnxSession(m).run(pictures(8)) for m in (model, quantised))
    np.testing.assert_array_equal(floats.argmax(axis=1), integers.argmax(axis=1))


def test_only_float_weights_without_a_foreign_twin_are_quantised(
    store: ModelStore, quantised_file: Path, console: Console
) -> None:
    assert build.float_variants(store, "imagenet") == [FLOAT, OTHER_FLOAT]
    console("import", quantised_file)
    assert build.float_variants(store, "imagenet") == [OTHER_FLOAT]


def test_an_int8_variant_that_may_be_foreign_is_left_when_its_manifest_is_unreadable(
    store: ModelStore, quantised_file: Path, console: Console
) -> None:
    console("import", quantised_file)
    folder = store.root / "imagenet" / INT8
    (folder / "variant.json").write_text("{")
    before = (folder / "1" / "model.onnx").read_bytes()
    out, (line,) = console("quantize")
    assert [text.split()[1] for text in out] == [f"imagenet/{OTHER_INT8}"]
    assert line.startswith(f"left {INT8} of imagenet as it is (variant.json cannot be read: ")
    assert line.endswith(f"`model-store quantize {FLOAT}` replaces it")
    assert (folder / "1" / "model.onnx").read_bytes() == before
    shutil.rmtree(store.root / "imagenet" / OTHER_FLOAT)
    assert "nothing else to quantise" in console("quantize", code=1)[1][1]
    console("quantize", FLOAT)
    assert store.open("imagenet", INT8)[0].quantized_from is not None
