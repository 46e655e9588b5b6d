"""What every peer's handler runs: as tutorials write it, or with this project's functions.

With the second all servers do the same work on a picture, so that what differs is the server.
"""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

Prediction = dict[str, float]
Classify = Callable[[bytes], list[Prediction]]
UInt8Array = npt.NDArray[np.uint8]

_CROP = 0.875  # of the resized picture's shorter side, as the networks were evaluated


def load() -> Classify:
    """Loads the network, and returns what classifies the bytes of one picture."""
    return of(os.environ["PEER_PIPELINE"], Path(os.environ["PEER_MODEL"]))


def of(pipeline: str, model: Path) -> Classify:
    """What classifies with `pillow` or `ours`."""
    return _ours(model) if pipeline == "ours" else _pillow(model)


def preprocess(image: Image.Image, size: int) -> UInt8Array:
    """uint8 [1, size, size, 3]: convert, resize the shorter side, crop the centre."""
    image = image.convert("RGB")
    scale = size / _CROP / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, np.uint8)[np.newaxis]


class Network:
    """The ONNX file on one thread: each of these servers runs one inference on each core."""

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.size = _size(model)

    def classify(self, image: Image.Image) -> list[Prediction]:
        scores: Any = self._session.run(["scores"], {"image": preprocess(image, self.size)})[0][0]
        return top5(scores)


def top5(scores: npt.NDArray[np.float32]) -> list[Prediction]:
    return [{"index": int(i), "score": float(scores[i])} for i in np.argsort(scores)[::-1][:5]]


def _size(model: Path) -> int:
    """Pixels of the square that a variant of a store is for."""
    return int(json.loads((model.parents[1] / "variant.json").read_text())["resolution"])


def _pillow(model: Path) -> Classify:
    network = Network(model)
    return lambda data: network.classify(Image.open(io.BytesIO(data)))


def _ours(model: Path) -> Classify:
    from model_store.imaging import decode
    from model_store.manifest import Preprocessing
    from model_store.runtime import OnnxSession

    session, preprocessing = OnnxSession(model.read_bytes()), Preprocessing()
    size = _size(model)
    return lambda data: top5(session.run(decode(data, size, preprocessing)[np.newaxis])[0])
