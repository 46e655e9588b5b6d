"""A random network as Keras HDF5, TensorFlow.js and frozen GraphDef files, laid out like published ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from model_store.importers import graph_def
from tests.networks import Convolution, Floats, RandomNetwork

Tensor = tuple[str, str, Floats]  # layer, weight, values
Quantization = Literal["float32", "float16", "uint8"]

_SAME_PADDING = [[0, 1], [0, 1]]
_SHARD_BYTES = 300_000  # as TensorFlow.js cuts at 4 MB: anywhere, also inside a tensor
_DT_FLOAT = 1


def keras_config(network: RandomNetwork, padding: list[list[int]] = _SAME_PADDING) -> dict[str, Any]:
    """`model_config` of keras.applications.MobileNet, as far as it says more than the weights."""
    side = network.resolution
    layers = [_layer("InputLayer", name="input_1", batch_input_shape=[None, side, side, 3])]
    for layer in network.convolutions:
        same = layer.stride == 1 or layer.kind == "convolution"
        if not same:
            layers.append(_layer("ZeroPadding2D", name=f"conv_pad_{layer.block}", padding=padding))
        kind = "DepthwiseConv2D" if layer.kind == "depthwise" else "Conv2D"
        layers.append(_layer(kind, name=layer.keras_name, padding="same" if same else "valid"))
        name = f"{layer.keras_name}_bn"
        layers.append(_layer("BatchNormalization", name=name, epsilon=network.epsilon))
        layers.append(_layer("ReLU", name=f"{layer.keras_name}_relu", max_value=6.0))
    layers.append(_layer("Conv2D", name="conv_preds", padding="same"))
    return {"class_name": "Functional", "config": {"name": "mobilenet_0.25_128", "layers": layers}}


def keras_tensors(network: RandomNetwork) -> Iterator[Tensor]:
    for layer in network.convolutions:
        weight = "depthwise_kernel" if layer.kind == "depthwise" else "kernel"
        yield layer.keras_name, weight, layer.kernel
        norm = layer.norm
        for name, values in (
            ("gamma", norm.gamma),
            ("beta", norm.beta),
            ("moving_mean", norm.mean),
            ("moving_variance", norm.variance),
        ):
            yield f"{layer.keras_name}_bn", name, values
    yield "conv_preds", "kernel", network.head[np.newaxis, np.newaxis]
    yield "conv_preds", "bias", network.head_bias


def write_keras(
    path: Path, network: RandomNetwork, *, config: object = None, weights_only: bool = False
) -> Path:
    """A whole model as `Model.save` writes it, or what `save_weights` does: no configuration."""
    with h5py.File(path, "w") as file:
        root = file if weights_only else file.create_group("model_weights")
        if not weights_only:
            file.attrs["model_config"] = json.dumps(config or keras_config(network))
        for layer, weight, values in keras_tensors(network):
            root[f"{layer}/{layer}/{weight}:0"] = values
    return path


def write_tfjs(
    folder: Path,
    network: RandomNetwork,
    *,
    quantization: Quantization = "float32",
    padding: list[list[int]] = _SAME_PADDING,
) -> Path:
    """`model.json` and its shards in `folder`, which is made; returns the path of model.json."""
    folder.mkdir(parents=True)
    entries, chunks = [], []
    for layer, weight, values in keras_tensors(network):
        entry: dict[str, Any] = {
            "name": f"{layer}/{weight}",
            "shape": list(values.shape),
            "dtype": "float32",
        }
        stored, how = _quantized(values, quantization)
        if how:
            entry["quantization"] = how
        entries.append(entry)
        chunks.append(stored.tobytes())
    data = b"".join(chunks)
    shards = [data[at : at + _SHARD_BYTES] for at in range(0, len(data), _SHARD_BYTES)]
    names = [f"group1-shard{i}of{len(shards)}" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        (folder / name).write_bytes(shard)
    model = {
        "modelTopology": {"keras_version": "2.1.4", "model_config": keras_config(network, padding)},
        "weightsManifest": [{"paths": names, "weights": entries}],
    }
    path = folder / "model.json"
    path.write_text(json.dumps(model))
    return path


def write_frozen(
    path: Path,
    network: RandomNetwork,
    *,
    fused: bool = False,
    short_form: bool = False,
    gamma: bool = True,
) -> Path:
    """TensorFlow-slim's MobilenetV1, frozen. `short_form` stores single values as TensorFlow does
    where all are equal; gamma is left out by slim's default of `scale=False`."""
    graph = graph_def.new_graph()
    placeholder = graph.node.add(name="input", op="Placeholder")
    shape = placeholder.attr.add(key="shape").value.shape
    for size in (-1, network.resolution, network.resolution, 3):
        shape.dim.add(size=size)
    for layer in network.convolutions:
        _add_layer(graph, layer, network.epsilon, fused=fused, short_form=short_form, gamma=gamma)
    scope = "MobilenetV1/Logits/Conv2d_1c_1x1"
    _add_constant(graph, f"{scope}/weights", network.head[np.newaxis, np.newaxis], False)
    _add_constant(graph, f"{scope}/biases", network.head_bias, False)
    path.write_bytes(graph.SerializeToString())
    return path


def _add_layer(
    graph: Any, layer: Convolution, epsilon: float, *, fused: bool, short_form: bool, gamma: bool
) -> None:
    scope = f"MobilenetV1/{layer.slim_name}"
    weight = "depthwise_weights" if layer.kind == "depthwise" else "weights"
    _add_constant(graph, f"{scope}/{weight}", layer.kernel, short_form)
    norm = {
        "beta": layer.norm.beta,
        "moving_mean": layer.norm.mean,
        "moving_variance": layer.norm.variance,
    }
    if gamma:
        norm["gamma"] = layer.norm.gamma
    for name, values in norm.items():
        _add_constant(graph, f"{scope}/BatchNorm/{name}", values, short_form)
    scope = f"MobilenetV1/MobilenetV1/{layer.slim_name}/BatchNorm"
    if fused:
        node = graph.node.add(name=f"{scope}/FusedBatchNorm", op="FusedBatchNorm")
        node.attr.add(key="epsilon").value.f = epsilon
    else:
        _add_constant(graph, f"{scope}/batchnorm/add/y", np.array(epsilon, np.float32), True)


def _add_constant(graph: Any, name: str, values: npt.NDArray[np.generic], short_form: bool) -> None:
    node = graph.node.add(name=name, op="Const")
    tensor = node.attr.add(key="value").value.tensor
    tensor.dtype = _DT_FLOAT
    for size in values.shape:
        tensor.tensor_shape.dim.add(size=size)
    if short_form and (values == values.flat[0]).all():
        tensor.float_val.append(float(values.flat[0]))
    else:
        tensor.tensor_content = values.astype("<f4").tobytes()


def _layer(class_name: str, **config: object) -> dict[str, Any]:
    return {"class_name": class_name, "config": config, "name": config["name"]}


def _quantized(
    values: Floats, quantization: Quantization
) -> tuple[npt.NDArray[np.generic], dict[str, Any] | None]:
    if quantization == "float32":
        return values.astype("<f4"), None
    if quantization == "float16":
        return values.astype("<f2"), {"dtype": "float16", "original_dtype": "float32"}
    low = float(values.min())
    scale = (float(values.max()) - low) / 255 or 1.0
    stored = np.round((values - low) / scale).astype(np.uint8)
    return stored, {"dtype": "uint8", "scale": scale, "min": low, "original_dtype": "float32"}
