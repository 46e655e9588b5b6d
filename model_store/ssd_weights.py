"""The canonical weights of a detector, as `weights` has them of a classifier; float, and quantised."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model_store.quantized import Quantization, QuantizedWeights
from model_store.ssd import SsdSpec
from model_store.weights import SYMMETRIC_SCALING, InputScaling, LayerWeights, check_shape


@dataclass(frozen=True, slots=True, eq=False)
class DetectorWeights:
    """`convolutions` in the order of `SsdSpec.convolutions`, `predictors` in that of its maps.

    A predictor's outputs are, anchor by anchor, the offsets of row, column, height and width, and the logit
    of a face.
    """

    convolutions: tuple[LayerWeights, ...]
    predictors: tuple[LayerWeights, ...]
    scaling: InputScaling


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedDetector:
    """The convolutions in integers, as a `QuantizedChain`; the predictors read their maps in float."""

    layers: tuple[QuantizedWeights, ...]
    activations: tuple[Quantization, ...]
    predictors: tuple[LayerWeights, ...]


def assemble(
    layers: Mapping[str, LayerWeights], *, scaling: InputScaling = SYMMETRIC_SCALING
) -> DetectorWeights:
    """Checks layers, by their names in `SsdSpec.layers`. Raises WeightsError that names the first layer
    that is missing or has the wrong shape."""
    spec = SsdSpec(224)  # any size: shapes of weights do not depend on it
    for layer in spec.layers:
        check_shape(layer, layers.get(layer.name), network="face detector")
    return DetectorWeights(
        tuple(layers[layer.name] for layer in spec.convolutions),
        tuple(layers[m.predictor.name] for m in spec.maps),
        scaling,
    )


def predictor(offsets: LayerWeights, logits: LayerWeights) -> LayerWeights:
    """One layer of two: offsets [4 a, ...] and the face's logits [a, ...] of the same a anchors."""
    anchors = len(logits.bias)
    kernel = np.concatenate(
        [
            offsets.kernel.reshape(anchors, 4, *offsets.kernel.shape[1:]),
            logits.kernel.reshape(anchors, 1, *logits.kernel.shape[1:]),
        ],
        axis=1,
    )
    bias = np.concatenate([offsets.bias.reshape(anchors, 4), logits.bias.reshape(anchors, 1)], axis=1)
    return LayerWeights(kernel.reshape(-1, *kernel.shape[2:]), bias.reshape(-1))
