"""MobileNet v1 by the layer names of `keras.applications`, as HDF5 and TensorFlow.js keep them."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from model_store.architecture import Layer, MobileNetSpec
from model_store.weights import (
    LayerWeights,
    NetworkWeights,
    WeightsError,
    assemble,
    classifier_kernel,
    convolution_kernel,
    depthwise_kernel,
    fold_batch_norm,
)

KERAS_EPSILON = 1e-3  # BatchNormalization's default, which keras.applications keeps

Tensors = Mapping[tuple[str, str], npt.NDArray[np.generic]]


def from_keras_tensors(tensors: Tensors, *, epsilon: float, trained_resolution: int | None) -> NetworkWeights:
    """Canonical weights from tensors by (layer, weight), as in ("conv_dw_1", "depthwise_kernel")."""
    layers: dict[str, LayerWeights] = {}
    for layer in MobileNetSpec(1.0, 224).layers:
        if layer.kind == "dense" and ("conv_preds", "kernel") not in tensors:
            continue
        try:
            layers[layer.name] = _layer(tensors, layer, epsilon)
        except ValueError as error:  # numpy's
            raise WeightsError(f"the tensors of layer {layer.name} do not fit one another") from error
    return assemble(layers, trained_resolution=trained_resolution)


def _layer(tensors: Tensors, layer: Layer, epsilon: float) -> LayerWeights:
    """Raises ValueError where shapes do not fit."""
    if layer.kind == "dense":
        kernel = classifier_kernel(_tensor(tensors, "conv_preds", "kernel"))
        return LayerWeights(kernel, _float(tensors, "conv_preds", "bias"))
    name = _keras_name(layer.name)
    if layer.kind == "depthwise":
        kernel = depthwise_kernel(_tensor(tensors, name, "depthwise_kernel"))
    else:
        kernel = convolution_kernel(_tensor(tensors, name, "kernel"))
    norm = f"{name}_bn"
    return fold_batch_norm(
        kernel,
        gamma=_float(tensors, norm, "gamma"),
        beta=_float(tensors, norm, "beta"),
        mean=_float(tensors, norm, "moving_mean"),
        variance=_float(tensors, norm, "moving_variance"),
        epsilon=epsilon,
    )


def _keras_name(name: str) -> str:
    """`conv_0` is conv1, `dw_3` conv_dw_3 and `pw_3` conv_pw_3."""
    return "conv1" if name == "conv_0" else f"conv_{name}"


def _tensor(tensors: Tensors, layer: str, weight: str) -> npt.NDArray[np.generic]:
    try:
        return tensors[layer, weight]
    except KeyError:
        raise WeightsError(
            f"the file has no {weight} of layer {layer}: not a MobileNet v1 of keras.applications"
        ) from None


def _float(tensors: Tensors, layer: str, weight: str) -> npt.NDArray[np.float32]:
    return _tensor(tensors, layer, weight).astype(np.float32)
