"""The face detector of the npm package `@vladmandic/face-api`: a weights manifest, and one file beside it.

TensorFlow's SSD with a MobileNet v1 body, trained on faces; tensors are stored in uint8, each with its own
scale. BatchNorm is there behind the depthwise convolutions, and folded already behind the others.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_store.importers.tfjs import read_manifest
from model_store.ssd import SsdSpec
from model_store.ssd_weights import DetectorWeights, assemble, predictor
from model_store.weights import (
    LayerWeights,
    WeightsError,
    convolution_kernel,
    depthwise_kernel,
    fold_batch_norm,
)

FORMAT = "face-api.js"

_EPSILON = 0.001
# Of each anchor's three classes: background, face, and one that no picture ever has.
_CLASSES, _FACE = 3, 1

_Tensors = Mapping[str, npt.NDArray[np.generic]]
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def load(path: Path) -> DetectorWeights:
    """Reads the manifest at `path`. Raises WeightsError."""
    try:
        tensors = read_manifest(json.loads(path.read_bytes()), path.parent)
    except _DAMAGE as error:
        raise WeightsError(f"{path.name} is not a readable weights manifest of TensorFlow.js") from error
    layers: dict[str, LayerWeights] = {}
    try:
        for layer in SsdSpec(224).convolutions:
            layers[layer.name] = _convolution(layer.name, tensors)
        for index, feature_map in enumerate(SsdSpec(224).maps):
            layers[feature_map.predictor.name] = _predictor(index, tensors)
    except KeyError as error:
        raise WeightsError(
            f"{path.name} has no tensor {error}: it is no face detector of face-api.js"
        ) from None
    except ValueError as error:
        raise WeightsError(f"{path.name} has tensors whose shapes do not belong together") from error
    return assemble(layers)


def _convolution(name: str, tensors: _Tensors) -> LayerWeights:
    kind, _, index = name.partition("_")
    if kind == "dw":
        prefix = f"MobilenetV1/Conv2d_{index}_depthwise"
        norm = f"{prefix}/BatchNorm"
        return fold_batch_norm(
            depthwise_kernel(tensors[f"{prefix}/depthwise_weights"]),
            gamma=_float(tensors[f"{norm}/gamma"]),
            beta=_float(tensors[f"{norm}/beta"]),
            mean=_float(tensors[f"{norm}/moving_mean"]),
            variance=_float(tensors[f"{norm}/moving_variance"]),
            epsilon=_EPSILON,
        )
    prefix = f"{'Prediction' if kind == 'extra' else 'MobilenetV1'}/Conv2d_{index}_pointwise"
    kernel = convolution_kernel(tensors[f"{prefix}/weights"])
    return LayerWeights(kernel, _float(tensors[f"{prefix}/convolution_bn_offset"]))


def _predictor(index: int, tensors: _Tensors) -> LayerWeights:
    prefix = f"Prediction/BoxPredictor_{index}"
    offsets, logits = (
        LayerWeights(
            convolution_kernel(tensors[f"{prefix}/{name}/weights"]),
            _float(tensors[f"{prefix}/{name}/biases"]),
        )
        for name in ("BoxEncodingPredictor", "ClassPredictor")
    )
    face = slice(_FACE, None, _CLASSES)
    return predictor(offsets, LayerWeights(logits.kernel[face], logits.bias[face]))


def _float(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    return values.astype(np.float32)
