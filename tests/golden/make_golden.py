"""Make the golden outputs that the importers are tested against, with the reference runtimes.

The tests read the files beside this script and never run it. To make them again, in an
environment of its own (Python 3.11 or later):

    python -m venv venv
    venv/bin/pip install tensorflow-cpu tf_keras pillow
    venv/bin/python tests/golden/make_golden.py --shared ../shared --frozen-graph FILE

FILE is a TensorFlow frozen GraphDef with the body of Google's MobilenetV1 1.0_224: the one used
is `nudity/files/retrained_graph.pb` of the source distribution nudity 0.2.3 on PyPI, whose own
two-class head is left out; only the 1001 ImageNet logits are read.

The files here were made with Python 3.11.7, tensorflow 2.21.0, tf_keras 2.21.0, pillow 13.0.0
(libjpeg-turbo 3.2.0) and numpy 2.4.6 on x86-64. `golden.json` records these versions, the SHA-256 of
every weights file and of the input pixels, and each model's top-1
accuracy over the labelled pictures.

Nothing is resampled: a model of resolution r sees the central r x r pixels of the 227 x 227
pictures as x / 127.5 - 1. (TensorFlow Lite needs no golden file: its runtime is small enough for
the tests to run it themselves.)
"""

import argparse
import csv
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras
from PIL import Image, features

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1].parent / "shared"  # next to the repository

PICTURE_SIDE = 227  # pixels
FLOAT_ROWS = slice(0, 480, 60)  # of labels.csv: 8 pictures, spread over the file
BATCH = 30  # pictures; only bounds the memory

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Classify = Callable[[npt.NDArray[Any]], Floats]
"""From pixels [n, r, r, 3] to probabilities [n, classes]."""


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures: uint8 RGB [n, 227, 227, 3] and ImageNet classes 0-999 [n]."""

    names: Sequence[str]
    classes: npt.NDArray[np.int64]
    pixels: Pixels

    def centre(self, resolution: int) -> Pixels:
        """The central pixels [n, resolution, resolution, 3], of offset (227 - resolution) // 2."""
        start = (PICTURE_SIDE - resolution) // 2
        window = slice(start, start + resolution)
        return np.ascontiguousarray(self.pixels[:, window, window])


@dataclass(frozen=True)
class Model:
    """A reference model; `background` is 1 where class 0 means "none of the 1000", else 0."""

    name: str
    resolution: int
    background: int
    files: Sequence[Path]
    classify: Classify


def read_pictures(folder: Path) -> Pictures:
    """The pictures that labels.csv lists, in its order; ValueError where one is not 227 x 227."""
    with (folder / "labels.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return Pictures(
        names=[row["file"] for row in rows],
        classes=np.array([int(row["index"]) for row in rows]),
        pixels=np.stack([_decode(folder / row["file"]) for row in rows]),
    )


def _decode(path: Path) -> Pixels:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (PICTURE_SIDE, PICTURE_SIDE, 3):
        raise ValueError(f"{path.name} is {pixels.shape}, not 227 x 227 RGB")
    return pixels


def scaled(pixels: npt.NDArray[Any]) -> Floats:
    """Pixels of 0-255 as the float models take them, in [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def keras_hdf5(folder: Path) -> Model:
    """The official Keras 0.25_224, run from the architecture and weights that the file keeps.

    tf_keras, because Keras 3 refuses the `groups` that Keras 2.8 wrote for DepthwiseConv2D.
    """
    path = folder / "mobilenet_v1_0.25_224.h5"
    network = tf_keras.models.load_model(path, compile=False)
    return Model("keras_0.25_224", 224, 0, [path], _keras_classify(network))


def tfjs_layers(folder: Path) -> Model:
    """The official TensorFlow.js 0.75_224: its weights in the MobileNet of keras.applications."""
    topology = folder / "model.json"
    groups = json.loads(topology.read_text())["weightsManifest"]
    network = tf_keras.applications.MobileNet(alpha=0.75, weights=None, input_shape=(224, 224, 3))
    _set_weights(network, _read_manifest(folder, groups))
    shards = [folder / name for group in groups for name in group["paths"]]
    return Model("tfjs_0.75_224", 224, 0, [topology, *shards], _keras_classify(network))


def _read_manifest(folder: Path, groups: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    """Float32 tensors by name, such as "conv1_bn/gamma".

    A group's shards, joined, hold its tensors back to back in the manifest's order.
    """
    tensors: dict[str, Floats] = {}
    for group in groups:
        data = b"".join((folder / name).read_bytes() for name in group["paths"])
        offset = 0
        for weight in group["weights"]:
            if weight["dtype"] != "float32" or "quantization" in weight:
                raise ValueError(f"{weight['name']} is not plain float32")
            count = int(np.prod(weight["shape"]))
            tensor = np.frombuffer(data, "<f4", count, offset)
            tensors[weight["name"]] = tensor.reshape(weight["shape"])
            offset += tensor.nbytes
        if offset != len(data):
            raise ValueError(f"{group['paths']}: {len(data)} bytes, {offset} described")
    return tensors


def _set_weights(network: tf_keras.Model, tensors: Mapping[str, Floats]) -> None:
    """Set every weight of the network by name; ValueError unless the names match one to one."""
    names = [weight.name.removesuffix(":0") for weight in network.weights]
    if set(names) != set(tensors):
        raise ValueError(f"names differ: {sorted(set(names) ^ set(tensors))}")
    network.set_weights([tensors[name] for name in names])


def _keras_classify(network: tf_keras.Model) -> Classify:
    def classify(pixels: npt.NDArray[Any]) -> Floats:
        batches = [scaled(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)]
        return np.concatenate([network(batch, training=False).numpy() for batch in batches])

    return classify


def frozen_graph(path: Path) -> Model:
    """MobilenetV1 1.0_224 as slim froze it: input [1, 224, 224, 3], softmax of the 1001 logits.

    Its placeholder takes one picture and its average pooling is fixed at 7 x 7, so that it runs
    at no other resolution.
    """
    definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    graph = tf.Graph()
    with graph.as_default():
        logits, source = tf.import_graph_def(
            definition, return_elements=["MobilenetV1/Predictions/Reshape:0", "input:0"], name=""
        )
        probabilities = tf.nn.softmax(logits)
    session = tf.compat.v1.Session(graph=graph)

    def classify(pixels: npt.NDArray[Any]) -> Floats:
        inputs = ({source: scaled(picture[None])} for picture in pixels)
        return np.concatenate([session.run(probabilities, feed) for feed in inputs])

    return Model("frozen_1.0_224", 224, 1, [path], classify)


def top1(probabilities: Floats) -> npt.NDArray[np.int16]:
    """The most probable class [n]; of tied classes the lowest."""
    return np.asarray(probabilities.argmax(axis=1), np.int16)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def facts(model: Model, pictures: Pictures, rows: slice, probabilities: Floats) -> dict[str, object]:
    """What golden.json records of a model, from its probabilities for all pictures."""
    correct = int((top1(probabilities) - model.background == pictures.classes).sum())
    accuracy = correct / len(pictures.classes)
    print(f"{model.name}: top-1 {correct}/{len(pictures.classes)} = {accuracy:.4f}")
    return {
        "resolution": model.resolution,
        "classes": probabilities.shape[1],
        "top1_accuracy": round(accuracy, 6),
        "top1_correct": correct,
        "top1_pictures": len(pictures.classes),
        "pixels_sha256": sha256(pictures.centre(model.resolution)[rows].tobytes()),
        "weights_sha256": {path.name: sha256(path.read_bytes()) for path in model.files},
    }


def write_float(out: Path, model: Model, pictures: Pictures) -> dict[str, object]:
    """NAME.npz: files [8] and probabilities float32 [8, classes]."""
    probabilities = model.classify(pictures.centre(model.resolution))
    np.savez_compressed(
        out / f"{model.name}.npz",
        files=np.array(pictures.names[FLOAT_ROWS]),
        probabilities=probabilities[FLOAT_ROWS],
    )
    return facts(model, pictures, FLOAT_ROWS, probabilities)


def evaluation_input(data: bytes, resolution: int) -> Floats:
    """[1, r, r, 3] in [-1, 1] as TensorFlow-slim's evaluation makes it: central 87.5 %, bilinear."""
    image = tf.image.convert_image_dtype(tf.io.decode_jpeg(data, channels=3), tf.float32)
    image = tf.image.central_crop(image, 0.875)[None]
    image = tf.compat.v1.image.resize_bilinear(image, [resolution, resolution], align_corners=False)
    return np.asarray((image.numpy() - 0.5) * 2, np.float32)


def write_evaluation(out: Path, models: Sequence[Model], folder: Path, pictures: Pictures) -> None:
    """evaluation.npz: files [510], and by model its top-1 class 0-999 int16 [510], by that pipeline."""
    arrays: dict[str, npt.NDArray[np.generic]] = {"files": np.array(pictures.names)}
    for model in models:
        # Back to pixels, since `classify` scales them itself; it takes fractions of levels.
        classes = [
            int(model.classify((evaluation_input((folder / name).read_bytes(), 224) + 1) * 127.5).argmax())
            for name in pictures.names
        ]
        arrays[model.name] = np.array(classes, np.int16) - model.background
        correct = int((arrays[model.name] == pictures.classes).sum())
        print(f"{model.name}, evaluation pipeline: top-1 {correct}/{len(classes)}")
    np.savez_compressed(out / "evaluation.npz", allow_pickle=False, **arrays)


def versions() -> dict[str, str | None]:
    """The versions that the outputs, and the decoded pixels, may depend on."""
    packages = ("tensorflow-cpu", "tf_keras", "numpy", "pillow")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{package: version(package) for package in packages},
        "libjpeg-turbo": features.version("libjpeg_turbo"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the golden outputs beside this script.")
    parser.add_argument("--shared", type=Path, default=SHARED, help="the shared data's folder")
    parser.add_argument("--frozen-graph", type=Path, required=True, help="MobilenetV1 1.0_224 .pb")
    parser.add_argument("--out", type=Path, default=HERE, help="where the files go")
    arguments = parser.parse_args()

    weights = arguments.shared / "weights"
    pictures = read_pictures(arguments.shared / "images" / "imagenet-val")
    references = (
        keras_hdf5(weights / "keras_mnv1_0.25_224"),
        tfjs_layers(weights / "tfjs_mnv1_0.75_224"),
        frozen_graph(arguments.frozen_graph),
    )
    models = {model.name: write_float(arguments.out, model, pictures) for model in references}
    write_evaluation(arguments.out, references, arguments.shared / "images" / "imagenet-val", pictures)
    record = {
        "float_files": pictures.names[FLOAT_ROWS],
        "versions": versions(),
        "models": models,
    }
    (arguments.out / "golden.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
