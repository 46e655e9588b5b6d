"""Official weights against the runtimes that their makers use.

TensorFlow's and Keras's answers are kept in tests/golden (its make_golden.py says how they were made);
TensorFlow Lite's are asked here. The weights and pictures lie outside the repository.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from model_store import build, package_index
from model_store.calibration import drawn_pictures
from model_store.download import DownloadError, read_member
from model_store.graph import build_classifier
from model_store.imaging import decode
from model_store.manifest import Preprocessing
from model_store.quantize import quantize
from model_store.quantized_graph import build_quantized_classifier
from model_store.runtime import OnnxSession
from model_store.sources import FALLBACK_SOURCE
from model_store.weights import WeightsError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
Pixels = npt.NDArray[np.uint8]
SIDE = 227  # of the labelled pictures
QUANTISED_PICTURES = 200


def session(path: Path) -> OnnxSession:
    return OnnxSession(build_classifier(build.load_weights(path)[1]))


def quantised_session(path: Path) -> OnnxSession:
    network = build.load_quantized(path)
    assert network is not None
    return OnnxSession(build_quantized_classifier(network))


def read_pixels(folder: Path, names: list[str], resolution: int, expected_sha256: str) -> Pixels:
    """The central pixels of the pictures, as make_golden.py cut them."""
    start = (SIDE - resolution) // 2
    window = slice(start, start + resolution)
    pictures = []
    for name in names:
        with Image.open(folder / name) as image:
            pictures.append(np.asarray(image.convert("RGB"))[window, window])
    pixels = np.ascontiguousarray(np.stack(pictures))
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert digest == expected_sha256, "this JPEG decoder gives other pixels: no fault of an importer"
    return pixels


def assert_golden(name: str, path: Path, shared: Path) -> None:
    """All probabilities of 8 pictures within 1e-4, and in the same order at the top."""
    recorded: dict[str, Any] = json.loads((GOLDEN / "golden.json").read_text())["models"][name]
    resolution = int(recorded["resolution"])
    with np.load(GOLDEN / f"{name}.npz") as golden:
        names, expected = [str(file) for file in golden["files"]], golden["probabilities"]
    images = shared / "images/imagenet-val"
    pixels = read_pixels(images, names, resolution, recorded["pixels_sha256"])
    if recorded["classes"] == 1001:
        expected = expected[:, 1:]
    found = session(path).run(pixels)
    assert found.shape == expected.shape == (8, 1000)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert np.abs(found - expected).max() < 1e-4


def test_keras_hdf5(shared: Path) -> None:
    path = shared / "weights/keras_mnv1_0.25_224/mobilenet_v1_0.25_224.h5"
    assert_golden("keras_0.25_224", path, shared)


def test_tensorflow_js(shared: Path) -> None:
    assert_golden("tfjs_0.75_224", shared / "weights/tfjs_mnv1_0.75_224/model.json", shared)


@pytest.fixture(scope="session")
def frozen_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official frozen graph of 1.0_224, from a file at hand or from the package index."""
    at_hand = os.environ.get("MOBILENET_TEST_FROZEN_GRAPH")
    if at_hand:
        return Path(at_hand)
    folder = tmp_path_factory.mktemp("frozen")
    archive, path = folder / FALLBACK_SOURCE.filename, folder / "frozen.pb"
    try:
        package_index.fetch_archive(FALLBACK_SOURCE.project, FALLBACK_SOURCE.filename, archive)
    except DownloadError as error:
        pytest.skip(f"{error}; MOBILENET_TEST_FROZEN_GRAPH may name the file")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == FALLBACK_SOURCE.sha256
    path.write_bytes(read_member(archive, FALLBACK_SOURCE.member.__eq__, 64 << 20))
    archive.unlink()
    return path


def test_frozen_graph(shared: Path, frozen_graph: Path) -> None:
    _, weights = build.load_weights(frozen_graph)
    assert (weights.alpha, weights.trained_resolution, weights.background) == (1.0, 224, True)
    assert_golden("frozen_1.0_224", frozen_graph, shared)


@pytest.mark.parametrize(("dequantised", "least"), [(True, 0.98), (False, 0.99)])
@pytest.mark.parametrize("name", ["0.25_128", "0.5_160", "0.75_192"])
def test_quantised_tflite(name: str, dequantised: bool, least: float, shared: Path) -> None:
    """The floats and the integers of the file agree with the reference on the top class.

    The reference's scores are multiples of 1/256: where several classes share the highest one, its
    choice among them is by their number only, so ours counts when it is any of them.
    """
    path = shared / f"weights/coral_quant/mobilenet_v1_{name}_quant.tflite"
    resolution = int(name.partition("_")[2])
    ours = session(path) if dequantised else quantised_session(path)
    agreeing = 0
    reference = Reference(path)
    for picture in labelled_pictures(shared, resolution):
        scores = reference.scores(picture)[1:]  # without the background
        agreeing += bool(scores[ours.run(picture[np.newaxis])[0].argmax()] == scores.max())
    assert agreeing >= least * QUANTISED_PICTURES


@pytest.mark.parametrize(
    ("name", "path", "resolution"),
    [
        ("0.25_224", "keras_mnv1_0.25_224/mobilenet_v1_0.25_224.h5", 224),
        ("0.75_224", "tfjs_mnv1_0.75_224/model.json", 224),
        ("0.5_160", "coral_quant/mobilenet_v1_0.5_160_quant.tflite", 160),
    ],
)
def test_quantising_loses_little(name: str, path: str, resolution: int, shared: Path) -> None:
    """The top class of all labelled pictures: no more than 2 points lost, and nine of ten the same."""
    _, weights = build.load_weights(shared / "weights" / path)
    network = quantize(weights, drawn_pictures(build.CALIBRATION_PICTURES, build.CALIBRATION_RESOLUTION))
    sessions = (
        session(shared / "weights" / path),
        OnnxSession(build_quantized_classifier(network)),
    )
    truth = labels(shared)
    pictures = list(labelled_pictures(shared, resolution, len(truth)))
    floats, integers = (np.array([s.run(p[np.newaxis])[0].argmax() for p in pictures]) for s in sessions)
    lost = int((floats == truth).sum()) - int((integers == truth).sum())
    assert lost <= 0.02 * len(truth), name
    assert (floats == integers).mean() >= 0.9


def labels(shared: Path) -> npt.NDArray[np.int64]:
    with (shared / "images/imagenet-val/labels.csv").open(newline="") as file:
        return np.array([int(row["index"]) for row in csv.DictReader(file)])


def test_an_embedding_extractor_is_refused(shared: Path) -> None:
    path = shared / "weights/coral_quant/mobilenet_v1_1.0_224_quant_embedding_extractor.tflite"
    with pytest.raises(WeightsError, match="no classifier layer: only a whole network"):
        build.load_weights(path)


def labelled_pictures(shared: Path, resolution: int, count: int = QUANTISED_PICTURES) -> Iterator[Pixels]:
    folder = shared / "images/imagenet-val"
    with (folder / "labels.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)][:count]
    assert len(names) == count
    for name in names:
        yield decode((folder / name).read_bytes(), resolution, Preprocessing())


class Reference:
    """TensorFlow Lite's interpreter with its default kernels."""

    def __init__(self, path: Path) -> None:
        litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
        self._interpreter = litert.Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def scores(self, picture: Pixels) -> Pixels:
        self._interpreter.set_tensor(self._input, picture[np.newaxis])
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(self._output)[0], np.uint8)
