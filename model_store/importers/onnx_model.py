"""An ONNX model that already fits the store: `image` uint8 [N, H, W, 3] in, `scores` [N, classes] out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from model_store.architecture import ALPHAS, MobileNetSpec
from model_store.runtime import ModelUnusable, OnnxSession
from model_store.weights import WeightsError


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """The bytes to install as they are, and what they show of themselves."""

    model: bytes
    alpha: float
    resolution: int
    quantized: bool


def load(path: Path, classes: int, resolution: int | None = None) -> OnnxModel:
    """Checks interface and classes, and runs a grey picture once. `resolution` has to be given for a model
    that takes any. Raises WeightsError."""
    try:
        model = path.read_bytes()
        proto = onnx.load_from_string(model)
        onnx.checker.check_model(proto)
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read") from error
    except Exception as error:  # protobuf's and the checker's own classes
        raise WeightsError(f"{path.name} is not a valid ONNX model") from error
    try:
        session = OnnxSession(model)
    except ModelUnusable as error:
        raise WeightsError(f"{path.name}: {error}") from error
    size = _size(path.name, session.resolution, resolution)
    try:
        scores = session.run(np.full((1, size, size, 3), 128, np.uint8))
    except Exception as error:  # onnxruntime's own classes
        raise WeightsError(f"{path.name} fails on a grey picture") from error
    if not np.isfinite(scores).all():
        raise WeightsError(f"{path.name} answers scores that are not finite")
    if scores.shape != (1, classes):
        raise WeightsError(f"{path.name} answers scores of {scores.shape}, expected (1, {classes})")
    quantized = any(node.op_type == "QLinearConv" or "Quantize" in node.op_type for node in proto.graph.node)
    return OnnxModel(model, _alpha(proto, path.name), size, quantized)


def _size(name: str, built_for: int | None, wanted: int | None) -> int:
    size = built_for or wanted
    if size is None:
        raise WeightsError(f"{name} takes pictures of any size: say which with --resolution")
    if wanted not in (None, size):
        raise WeightsError(f"{name} is built for {size} pixels, not {wanted}")
    return size


def _alpha(proto: onnx.ModelProto, name: str) -> float:
    """By the width of the first convolution."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for tensor in tensors.values():
        shape = list(tensor.dims)
        if len(shape) == 4 and shape[1:] == [3, 3, 3]:
            for alpha in ALPHAS:
                if MobileNetSpec(alpha, 224).layers[0].out_channels == shape[0]:
                    return alpha
    raise WeightsError(f"{name} has no first convolution of a MobileNet v1 in its initializers")
