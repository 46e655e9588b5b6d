"""Keras HDF5: a whole model or its weights, as `keras.applications.MobileNet` saves them."""

import json
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from model_store.importers import keras_config
from model_store.importers.keras_names import KERAS_EPSILON, from_keras_tensors
from model_store.weights import NetworkWeights, WeightsError

# What h5py raises on a damaged file, wherever it is met; MemoryError for a shape that is not true.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, RuntimeError, OverflowError, MemoryError)


def load(path: Path) -> NetworkWeights:
    """Reads a legacy Keras HDF5 file (`.h5`, `.hdf5`). Raises WeightsError."""
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            tensors = _tensors(root)
            config = json.loads(file.attrs["model_config"]) if "model_config" in file.attrs else {}
    except _DAMAGE as error:
        raise WeightsError(f"{path.name} is not a readable HDF5 file of Keras") from error
    keras_config.check_padding(config)
    return from_keras_tensors(
        tensors,
        epsilon=keras_config.batch_norm_epsilon(config) if config else KERAS_EPSILON,
        trained_resolution=keras_config.input_resolution(config),
    )


def _tensors(root: h5py.Group) -> dict[tuple[str, str], npt.NDArray[np.generic]]:
    """Each data set by (layer, weight); "conv1/conv1/kernel:0" is ("conv1", "kernel")."""
    tensors = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            layer, *_, weight = name.split("/")
            tensors[layer, weight.partition(":")[0]] = np.asarray(item)

    root.visititems(visit)
    return tensors
