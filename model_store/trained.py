"""Weights trained here, of one alpha and all resolutions: the file that ships, and what it means.

The kernels serve every resolution; what differs is what BatchNorm measured there. A file is an .npz:

    alpha, resolutions        float32 [1], int32 [resolutions]
    <layer>/kernel            float16, layouts of `LayerWeights`
    <layer>/gamma, beta       float32 [out], BatchNorm's
    <layer>/mean, variance    float32 [resolutions, out], in the order of `resolutions`
    classifier/kernel, bias   float16, float32
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_store.architecture import MobileNetSpec
from model_store.weights import (
    SYMMETRIC_SCALING,
    FloatArray,
    LayerWeights,
    NetworkWeights,
    WeightsError,
    assemble,
    fold_batch_norm,
    kernel_shape,
)

EPSILON = 1e-3
_STATISTICS = ("mean", "variance")
_NORM_VECTORS = ("gamma", "beta", *_STATISTICS)
_FLOATS, _INTEGERS = (np.float16, np.float32), (np.int32,)
_OTHER = "the file holds no network that was trained here"
_Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, eq=False)
class NormalizedLayer:
    """One convolution and its BatchNorm; `mean` and `variance` are [resolutions, out]."""

    kernel: FloatArray
    gamma: FloatArray
    beta: FloatArray
    mean: FloatArray
    variance: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class TrainedNetwork:
    """A network as it was trained: convolutions in the order of `MobileNetSpec.layers`, and the heads."""

    alpha: float
    resolutions: tuple[int, ...]
    convolutions: tuple[NormalizedLayer, ...]
    classifier: LayerWeights

    def at(self, resolution: int) -> NetworkWeights:
        """Canonical weights for one resolution. Raises WeightsError for one that was not trained."""
        if resolution not in self.resolutions:
            raise WeightsError(f"trained for {self.resolutions} pixels, not {resolution}")
        index = self.resolutions.index(resolution)
        outputs = len(self.classifier.bias)
        layers = MobileNetSpec(self.alpha, resolution, outputs).layers
        folded = {
            layer.name: fold_batch_norm(
                c.kernel,
                gamma=c.gamma,
                beta=c.beta,
                mean=c.mean[index],
                variance=c.variance[index],
                epsilon=EPSILON,
            )
            for layer, c in zip(layers, self.convolutions, strict=False)
        }
        folded["classifier"] = self.classifier
        return assemble(folded, classes=(outputs,), scaling=SYMMETRIC_SCALING, trained_resolution=resolution)

    def rounded(self) -> "TrainedNetwork":
        """As it is once stored: kernels to float16's precision."""
        return load_bytes(save_bytes(self))


def save_bytes(network: TrainedNetwork) -> bytes:
    """The file; the same network gives the same bytes."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "alpha": np.array([network.alpha], np.float32),
        "resolutions": np.array(network.resolutions, np.int32),
        "classifier/kernel": network.classifier.kernel.astype(np.float16),
        "classifier/bias": network.classifier.bias,
    }
    layers = MobileNetSpec(network.alpha, 224).layers
    for layer, c in zip(layers, network.convolutions, strict=False):
        arrays[f"{layer.name}/kernel"] = c.kernel.astype(np.float16)
        arrays |= {f"{layer.name}/{name}": getattr(c, name).astype(np.float32) for name in _NORM_VECTORS}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            # With a fixed date, unlike np.savez.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def load(path: Path) -> TrainedNetwork:
    """Raises WeightsError for a file that is no such network."""
    return load_bytes(path.read_bytes())


def load_bytes(data: bytes) -> TrainedNetwork:
    """The same of a file's bytes."""
    arrays = _arrays(data)
    alpha = round(float(_array(arrays, "alpha", (1,))[0]), 4)
    resolutions = tuple(int(r) for r in _array(arrays, "resolutions", (None,), _INTEGERS))
    bias = _array(arrays, "classifier/bias", (None,))
    try:
        layers = MobileNetSpec(alpha, min(resolutions, default=0), len(bias)).layers
    except ValueError as error:
        raise WeightsError(str(error)) from error
    kernels = [_array(arrays, f"{layer.name}/kernel", kernel_shape(layer)) for layer in layers]
    convolutions = []
    for layer, kernel in zip(layers[:-1], kernels, strict=False):
        out = layer.out_channels
        shapes = {"gamma": (out,), "beta": (out,), **dict.fromkeys(_STATISTICS, (len(resolutions), out))}
        norm = {name: _array(arrays, f"{layer.name}/{name}", shape) for name, shape in shapes.items()}
        convolutions.append(NormalizedLayer(kernel, **norm))
    return TrainedNetwork(alpha, resolutions, tuple(convolutions), LayerWeights(kernels[-1], bias))


def _arrays(data: bytes) -> dict[str, _Array]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            # What does not begin as an array is given as bytes.
            return {name: array for name, array in file.items() if isinstance(array, np.ndarray)}
    except Exception as error:  # what zip, deflate and headers fail with when damaged shares no base
        raise WeightsError(_OTHER) from error


def _array(
    arrays: dict[str, _Array], name: str, shape: tuple[int | None, ...], kinds: tuple[type, ...] = _FLOATS
) -> FloatArray:
    """Raises WeightsError unless there is one of this shape, whose None is any length, and of these kinds."""
    array = arrays.get(name)
    if array is None:
        raise WeightsError(f"{_OTHER}: it has no {name}")
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, length) for length, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype not in kinds:
        expected = f"{' or '.join(kind.__name__ for kind in kinds)} {shape}".replace("None", "any length")
        raise WeightsError(f"{name} of the file is {array.dtype} {array.shape}, expected {expected}")
    return array.astype(np.float32)
