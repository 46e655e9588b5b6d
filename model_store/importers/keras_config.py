"""What a Keras model configuration tells beside the weights: input size, BatchNorm's epsilon."""

from collections.abc import Iterator, Mapping
from typing import Any

from model_store.importers.keras_names import KERAS_EPSILON
from model_store.weights import WeightsError

# At stride 2, Keras pads explicitly before a `valid` convolution; this is TensorFlow's SAME on even sizes.
_SAME_AT_STRIDE_2 = [[0, 1], [0, 1]]


def input_resolution(config: Mapping[str, Any]) -> int | None:
    """Side of the square input in pixels, or None where the model leaves it open."""
    for layer in _layers(config):
        shape = layer.get("batch_input_shape") or layer.get("batch_shape")
        if shape and len(shape) == 4:
            return int(shape[1]) if shape[1] else None
    return None


def batch_norm_epsilon(config: Mapping[str, Any]) -> float:
    """The one epsilon of all BatchNormalization layers."""
    found = {float(layer["epsilon"]) for layer in _layers(config) if "epsilon" in layer}
    if len(found) > 1:
        raise WeightsError(f"the BatchNorm layers differ in epsilon: {sorted(found)}")
    return found.pop() if found else KERAS_EPSILON


def check_padding(config: Mapping[str, Any]) -> None:
    """Raises WeightsError when the model pads otherwise than the checkpoints were trained with."""
    for layer in _layers(config):
        padding = layer.get("padding")
        if isinstance(padding, list) and padding != _SAME_AT_STRIDE_2:
            raise WeightsError(
                f"layer {layer.get('name')} pads by {padding}; MobileNet v1 pads by "
                f"{_SAME_AT_STRIDE_2} (TensorFlow's SAME) before a convolution of stride 2"
            )


def _layers(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    inner = config.get("config", {})
    layers = inner.get("layers", []) if isinstance(inner, Mapping) else inner
    for layer in layers:
        if isinstance(layer, Mapping) and isinstance(layer.get("config"), Mapping):
            yield layer["config"]
