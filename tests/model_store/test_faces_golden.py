"""The real detector against the package's own JavaScript (tests/golden/faces) on photos and compositions."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from bench.compositions import RGB, Box, Material, as_png, read_upright
from bench.detection import overlap
from model_store import boxes
from model_store.detect import Face, faces_of, find_faces
from model_store.download import read_member
from model_store.photo import Photo
from model_store.runtime import OnnxDetector
from model_store.store import ModelStore
from tests.golden.faces.pictures import digest

ANSWERS = Path(__file__).resolve().parents[1] / "golden" / "faces" / "answers.json"
COMPOSITIONS = 45
LARGE = "ssd_mobilenet_v1_1.0_512_{}"


@dataclass(frozen=True, eq=False)
class Golden:
    """A picture, its bytes as a client sends them, and what the package found, cut off at its edges."""

    name: str
    pixels: RGB
    data: bytes
    faces: list[Face]


@pytest.fixture(scope="module")
def golden(shared: Path) -> list[Golden]:
    """All photos in which the package found a face, and compositions."""
    answers = json.loads(ANSWERS.read_text())["pictures"]
    found = []
    material = Material(shared)
    for name, answer in answers.items():
        if name.startswith("composition-"):
            seed = int(name.removeprefix("composition-"))
            if seed >= COMPOSITIONS:
                continue
            pixels = material.compose(seed).pixels
            data = as_png(pixels)
        else:
            data = (shared / "images" / "photos" / name).read_bytes()
            if not answer["faces"]:
                continue
            pixels = np.asarray(read_upright(data))
        if digest(pixels) == answer["sha256"][:16]:  # another decoder's are not the same picture
            faces = [_cut(Face(*values), answer["width"], answer["height"]) for values in answer["faces"]]
            found.append(Golden(name, pixels, data, faces))
    assert len(found) >= 50
    return found


def test_every_box_is_the_packages(golden: list[Golden], face_store: ModelStore) -> None:
    """Network, decoding and suppression: within 2 pixels at IoU >= 0.95, on every picture.

    The network reads the resized pictures as the package's does, in float: in whole grey levels, which
    of two anchors is the surer can turn out the other way.
    """
    _, model = face_store.open("face-detection", LARGE.format("fp32"))
    session = _on_floats(model)
    for picture in golden:
        offsets, scores = session.run(None, {"image": _as_the_package_resizes(picture.pixels)})
        height, width, _ = picture.pixels.shape
        ours = faces_of(offsets[0], scores[0], 512, (width, height))
        assert len(ours) == len(picture.faces), picture.name
        for mine, theirs in zip(ours, picture.faces, strict=True):
            assert _apart(mine, theirs) < 0.5, picture.name
            assert overlap(mine, theirs) >= 0.95, picture.name
            assert mine.score == pytest.approx(theirs.score, abs=1e-3), picture.name


def test_served_boxes_are_mostly_the_packages(golden: list[Golden], face_store: ModelStore) -> None:
    """From the bytes of the picture, through the decoding that serves, in whole grey levels."""
    detector = OnnxDetector(face_store.open("face-detection", LARGE.format("fp32"))[1])
    same, total = 0, 0
    for picture in golden:
        ours = find_faces(detector, Photo(picture.data, 512), min_score=0.3)
        for theirs in picture.faces:
            total += 1
            best = max(ours, key=partial(overlap, theirs), default=None)
            if best is not None:
                same += overlap(best, theirs) >= 0.95 and _apart(best, theirs) <= 2
    assert same / total >= 0.94


@pytest.mark.parametrize("size", [512, 320, 224])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_four_faces_of_a_photo(size: int, precision: str, face_store: ModelStore, shared: Path) -> None:
    _, model = face_store.open("face-detection", f"ssd_mobilenet_v1_1.0_{size}_{precision}")
    data = (shared / "images" / "photos" / "face.jpg").read_bytes()
    answers = json.loads(ANSWERS.read_text())["pictures"]["face.jpg"]["faces"]
    found = find_faces(OnnxDetector(model), Photo(data, size))
    assert len(found) == len(answers) == 4
    for values in answers:
        assert max(overlap(face, Face(*values)) for face in found) > 0.5


def test_anchors_are_those_that_the_package_stores(tmp_path: Path) -> None:
    """Computed here from the scales and shapes of TensorFlow's generator; the package has them as numbers."""
    from model_store import npm
    from model_store.download import DownloadError
    from model_store.importers.tfjs import read_manifest
    from model_store.sources import FACE_DETECTOR_SOURCE as SOURCE

    archive = tmp_path / SOURCE.filename
    try:
        npm.fetch_archive(SOURCE.spec, archive)
    except DownloadError as error:
        pytest.skip(f"npm does not give the detector's weights: {error}")
    for name in (SOURCE.manifest, *SOURCE.shards):
        (tmp_path / Path(name).name).write_bytes(read_member(archive, name.__eq__, 16 << 20))
    manifest = json.loads((tmp_path / Path(SOURCE.manifest).name).read_bytes())
    stored = read_manifest(manifest, tmp_path)["Output/extra_dim"][0]
    anchors = boxes.anchors(512)
    ours = boxes.decode(np.zeros((len(anchors), 4), np.float32), anchors) / 512
    np.testing.assert_allclose(ours, stored, atol=1e-6)


def _cut(face: Face, width: int, height: int) -> Face:
    """The package lets boxes run into the padding on the right and below."""
    right, bottom = min(face.x + face.width, width), min(face.y + face.height, height)
    return Face(face.x, face.y, right - face.x, bottom - face.y, face.score)


def _apart(one: Face | Box, other: Face | Box) -> float:
    """The largest distance of two edges, in pixels."""
    horizontal = max(abs(one.x - other.x), abs(one.x + one.width - other.x - other.width))
    return max(horizontal, abs(one.y - other.y), abs(one.y + one.height - other.y - other.height))


def _on_floats(model: bytes) -> ort.InferenceSession:
    """The stored model without its first cast."""
    proto = onnx.load_from_string(model)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    (cast,) = (node for node in proto.graph.node if node.op_type == "Cast")
    for node in proto.graph.node:
        node.input[:] = [cast.input[0] if name == cast.output[0] else name for name in node.input]
    proto.graph.node.remove(cast)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _as_the_package_resizes(pixels: RGB) -> npt.NDArray[np.float32]:
    """[1, 512, 512, 3]: padded to a square at the right and below, then TensorFlow's bilinear resize."""
    height, width, _ = pixels.shape
    side = max(height, width)
    square = np.zeros((side, side, 3), np.float32)
    square[:height, :width] = pixels
    at = np.arange(512) * np.float32(side / 512)
    low = at.astype(int)
    high, share = np.minimum(low + 1, side - 1), (at - low)[:, np.newaxis, np.newaxis]
    rows = square[low] * (1 - share) + square[high] * share
    share = share.reshape(1, -1, 1)
    return np.asarray(rows[:, low] * (1 - share) + rows[:, high] * share, np.float32)[np.newaxis]
