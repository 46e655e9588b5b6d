"""TensorFlow frozen GraphDef (`.pb`) of TensorFlow-slim's MobilenetV1, as the official archives hold."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store.architecture import Layer, MobileNetSpec
from model_store.importers import graph_def
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

_SCOPE = "MobilenetV1"
_CLASSIFIER = f"{_SCOPE}/Logits/Conv2d_1c_1x1"
SLIM_EPSILON = 1e-3


def load(path: Path) -> NetworkWeights:
    """Reads the MobilenetV1 of a frozen graph, whatever other head stands on it. Raises WeightsError."""
    try:
        nodes = graph_def.parse_nodes(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path.name} is not a readable frozen GraphDef") from error
    return from_nodes(nodes)


def from_nodes(nodes: dict[str, Any]) -> NetworkWeights:
    """Canonical weights from GraphDef nodes by name."""
    layers = {}
    for layer in MobileNetSpec(1.0, 224).layers:
        try:
            layers[layer.name] = _layer(nodes, layer)
        except ValueError as error:  # numpy's
            raise WeightsError(f"the tensors of layer {layer.name} do not fit one another") from error
    return assemble(layers, trained_resolution=_input_resolution(nodes))


def _layer(nodes: dict[str, Any], layer: Layer) -> LayerWeights:
    """Raises ValueError where shapes do not fit."""
    if layer.kind == "dense":
        return LayerWeights(
            classifier_kernel(_constant(nodes, f"{_CLASSIFIER}/weights")),
            _constant(nodes, f"{_CLASSIFIER}/biases"),
        )
    scope = f"{_SCOPE}/{_slim_name(layer.name)}"
    if layer.kind == "depthwise":
        kernel = depthwise_kernel(_constant(nodes, f"{scope}/depthwise_weights"))
    else:
        kernel = convolution_kernel(_constant(nodes, f"{scope}/weights"))
    return fold_batch_norm(
        kernel,
        gamma=_optional(nodes, f"{scope}/BatchNorm/gamma"),
        beta=_optional(nodes, f"{scope}/BatchNorm/beta"),
        mean=_constant(nodes, f"{scope}/BatchNorm/moving_mean"),
        variance=_constant(nodes, f"{scope}/BatchNorm/moving_variance"),
        epsilon=_epsilon(nodes, _slim_name(layer.name)),
    )


def _slim_name(name: str) -> str:
    """`conv_0` is Conv2d_0, `dw_3` Conv2d_3_depthwise and `pw_3` Conv2d_3_pointwise."""
    kind, _, index = name.partition("_")
    suffix = {"conv": "", "dw": "_depthwise", "pw": "_pointwise"}[kind]
    return f"Conv2d_{index}{suffix}"


def _optional(nodes: dict[str, Any], name: str) -> npt.NDArray[np.float32] | None:
    node = nodes.get(name)
    if node is None:
        return None
    try:
        return graph_def.constant(node)
    except (KeyError, ValueError) as error:
        raise WeightsError(f"the node {name} holds no float constant") from error


def _constant(nodes: dict[str, Any], name: str) -> npt.NDArray[np.float32]:
    tensor = _optional(nodes, name)
    if tensor is None:
        raise WeightsError(f"the graph has no constant {name}: not a frozen {_SCOPE}")
    return tensor


def _epsilon(nodes: dict[str, Any], layer: str) -> float:
    """BatchNorm's epsilon: a constant of the unfused form, an attribute of the fused one."""
    scope = f"{_SCOPE}/{_SCOPE}/{layer}/BatchNorm"
    added = _optional(nodes, f"{scope}/batchnorm/add/y")
    if added is not None:
        if added.size != 1:
            raise WeightsError(f"BatchNorm's epsilon of {layer} has {added.size} values")
        return float(added.item())
    for name in ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"):
        node = nodes.get(f"{scope}/{name}")
        if node is not None and "epsilon" in graph_def.attributes(node):
            return float(graph_def.attributes(node)["epsilon"].f)
    return SLIM_EPSILON


def _input_resolution(nodes: dict[str, Any]) -> int | None:
    for node in nodes.values():
        if node.op == "Placeholder":
            shape = graph_def.attributes(node).get("shape")
            sizes = [dim.size for dim in shape.shape.dim] if shape is not None else []
            if len(sizes) == 4 and sizes[1] > 0:
                return int(sizes[1])
    return None
