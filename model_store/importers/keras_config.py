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
        if isinstance(shape, list) and len(shape) == 4:
            if not isinstance(shape[1], int | None):
                raise WeightsError(f"the input's shape {shape} makes no sense")
            return shape[1] or None
    return None


def batch_norm_epsilon(config: Mapping[str, Any]) -> float:
    """The one epsilon of all BatchNormalization layers."""
    try:
        found = {float(layer["epsilon"]) for layer in _layers(config) if "epsilon" in layer}
    except (OverflowError, TypeError, ValueError) as error:  # JSON's whole numbers have no end
        raise WeightsError("the epsilon of a BatchNorm layer is no number") from error
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
    if config == {}:  # saved weights without the model
        return
    inner = config.get("config") if isinstance(config, Mapping) else None
    layers = inner.get("layers") if isinstance(inner, Mapping) else inner
    if not isinstance(layers, list):
        raise WeightsError("the model's configuration lists no layers")
    for layer in layers:
        if isinstance(layer, Mapping) and isinstance(layer.get("config"), Mapping):
            yield layer["config"]
