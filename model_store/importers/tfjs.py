"""TensorFlow.js layers model: `model.json` with a weights manifest, and its shards beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store.importers import keras_config
from model_store.importers.keras_names import from_keras_tensors
from model_store.weights import NetworkWeights, WeightsError

# What JSON of another shape than expected, or out of bounds, ends in.
_DAMAGE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


def load(path: Path) -> NetworkWeights:
    """Reads the model whose `model.json` (or folder) is `path`. Raises WeightsError."""
    if path.is_dir():
        folder, path = path, path / "model.json"
        if not path.is_file():
            raise WeightsError(f"the folder {folder} has no model.json of TensorFlow.js")
    try:
        model = json.loads(path.read_bytes())
        topology, manifest = model["modelTopology"], model["weightsManifest"]
        config = topology.get("model_config", topology)
        tensors: dict[tuple[str, str], npt.NDArray[np.generic]] = {}
        for name, tensor in read_manifest(manifest, path.parent).items():
            layer, *_, weight = name.split("/")
            tensors[layer, weight] = tensor
    except _DAMAGE as error:
        raise WeightsError(f"{path.name} is not a readable TensorFlow.js layers model") from error
    keras_config.check_padding(config)
    return from_keras_tensors(
        tensors,
        epsilon=keras_config.batch_norm_epsilon(config),
        trained_resolution=keras_config.input_resolution(config),
    )


def files(path: Path) -> list[Path]:
    """The JSON of a model that `load` has read, and the shards that it names in the order of their names."""
    if path.is_dir():
        path = path / "model.json"
    manifest = json.loads(path.read_bytes())["weightsManifest"]
    return [path, *sorted({path.parent / name for group in manifest for name in group["paths"]})]


def read_manifest(manifest: list[dict[str, Any]], folder: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Every tensor of a weights manifest by name, quantised ones as float32.

    Raises WeightsError when a shard is missing, leaves the folder, or has another length.
    """
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for group in manifest:
        data = b"".join(_shard(folder, name) for name in group["paths"])
        offset = 0
        for entry in group["weights"]:
            stored = entry.get("quantization", {}).get("dtype", entry["dtype"])
            dtype = np.dtype(stored).newbyteorder("<")
            count = int(np.prod(entry["shape"], dtype=np.int64))
            if offset + count * dtype.itemsize > len(data):
                raise WeightsError(f"the shards end inside {entry['name']}: are all of them there?")
            tensor = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
            offset += count * dtype.itemsize
            tensors[entry["name"]] = _dequantize(tensor, entry.get("quantization"))
        if offset != len(data):
            raise WeightsError(f"{len(data) - offset} bytes too many in {', '.join(group['paths'])}")
    return tensors


def _shard(folder: Path, name: str) -> bytes:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise WeightsError(f"the shard {name!r} lies outside the model's folder")
    try:
        return path.read_bytes()
    except OSError:
        raise WeightsError(f"the shard {name} is missing beside model.json") from None


def _dequantize(
    tensor: npt.NDArray[np.generic], quantization: dict[str, Any] | None
) -> npt.NDArray[np.generic]:
    if quantization is None or "scale" not in quantization:  # float16 has no scale
        return tensor
    scaled = tensor.astype(np.float64) * quantization["scale"] + quantization["min"]
    return np.asarray(scaled, np.float32)
