"""The canonical weights of one network, whatever file they came from.

BatchNorm is folded, layouts are ONNX's, values are float32. Everything that a format does
differently (background class, input scaling, layer names) ends here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_store.architecture import ALPHAS, Layer, MobileNetSpec

FloatArray = npt.NDArray[np.float32]


class WeightsError(Exception):
    """A weights file cannot be read as a MobileNet v1; the text says why, for the person importing."""


@dataclass(frozen=True, slots=True)
class InputScaling:
    """From a pixel (0 to 255) to what the first convolution expects: (pixel - zero) * scale."""

    scale: float
    zero: float


# TensorFlow-slim, Keras and TensorFlow.js: pixel / 127.5 - 1.
SYMMETRIC_SCALING = InputScaling(scale=1 / 127.5, zero=127.5)


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """`kernel` [out, in / groups, k, k] ([classes, in] for the classifier), `bias` [out]; float32."""

    kernel: FloatArray
    bias: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class NetworkWeights:
    """Weights of a MobileNet v1 in the order of `MobileNetSpec.layers`.

    `background` says that class 0 of the classifier is the background of the 1001-class checkpoints.
    `trained_resolution` is None where the file does not tell.
    """

    alpha: float
    layers: tuple[LayerWeights, ...]
    scaling: InputScaling
    background: bool
    trained_resolution: int | None

    @property
    def classes(self) -> int:
        """Number of classes without the background."""
        return int(self.layers[-1].bias.shape[0]) - self.background

    def spec(self, resolution: int) -> MobileNetSpec:
        return MobileNetSpec(self.alpha, resolution, self.classes)


def assemble(
    layers: Mapping[str, LayerWeights],
    *,
    classes: tuple[int, ...] = (1000, 1001),
    scaling: InputScaling = SYMMETRIC_SCALING,
    trained_resolution: int | None,
) -> NetworkWeights:
    """Checks layers, by their names in `MobileNetSpec.layers`, against the architecture.

    Alpha is read from the stem's width; 1001 classes mean a background class.
    Raises WeightsError that names the first layer that is missing or has the wrong shape.
    """
    if "classifier" not in layers:
        raise WeightsError("the file has no classifier layer: only a whole network can be imported")
    alpha = _alpha(layers)
    outputs = int(layers["classifier"].bias.shape[0])
    if outputs not in classes:
        wanted = " or ".join(str(n) for n in classes)
        raise WeightsError(f"the classifier has {outputs} classes, expected {wanted}")
    try:
        expected = MobileNetSpec(alpha, trained_resolution or 224, outputs).layers
    except ValueError as error:
        raise WeightsError(str(error)) from error
    for layer in expected:
        check_shape(layer, layers.get(layer.name))
    return NetworkWeights(
        alpha=alpha,
        layers=tuple(layers[layer.name] for layer in expected),
        scaling=scaling,
        background=outputs == 1001,
        trained_resolution=trained_resolution,
    )


def fold_batch_norm(
    kernel: FloatArray,
    *,
    gamma: FloatArray | None,
    beta: FloatArray | None,
    mean: FloatArray,
    variance: FloatArray,
    epsilon: float,
) -> LayerWeights:
    """Folds BatchNorm [out] into the kernel [out, ...] before it: one multiplication, one bias.

    Raises ValueError where the shapes do not fit; `assemble` refuses values that are not finite.
    """
    with np.errstate(all="ignore"):  # a negative variance, or one that overflows
        scale = 1 / np.sqrt(variance.astype(np.float64) + epsilon)
        if gamma is not None:
            scale = scale * gamma
        bias = -mean * scale
        if beta is not None:
            bias = bias + beta
        folded = kernel * scale.reshape(-1, *([1] * (kernel.ndim - 1)))
        return LayerWeights(folded.astype(np.float32), bias.astype(np.float32))


def convolution_kernel(kernel: npt.NDArray[np.generic]) -> FloatArray:
    """TensorFlow's [k, k, in, out] to ONNX's [out, in, k, k]."""
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), dtype=np.float32)


def depthwise_kernel(kernel: npt.NDArray[np.generic]) -> FloatArray:
    """TensorFlow's [k, k, channels, 1] to ONNX's [channels, 1, k, k]."""
    return np.ascontiguousarray(kernel.transpose(2, 3, 0, 1), dtype=np.float32)


def classifier_kernel(kernel: npt.NDArray[np.generic]) -> FloatArray:
    """TensorFlow's 1x1 convolution [1, 1, in, classes] to [classes, in]."""
    return np.ascontiguousarray(kernel.reshape(kernel.shape[-2:]).T, dtype=np.float32)


def _alpha(layers: Mapping[str, LayerWeights]) -> float:
    stem = layers.get("conv_0")
    if stem is None:
        raise WeightsError("the file has no first convolution of a MobileNet v1")
    width = stem.kernel.shape[0]
    for alpha in ALPHAS:
        if MobileNetSpec(alpha, 224).layers[0].out_channels == width:
            return alpha
    raise WeightsError(f"the first convolution has {width} channels: no MobileNet v1 of {ALPHAS}")


def kernel_shape(layer: Layer) -> tuple[int, ...]:
    """As `LayerWeights` has it."""
    shape = (layer.out_channels, 1 if layer.kind == "depthwise" else layer.in_channels)
    return shape if layer.kind == "dense" else (*shape, layer.kernel, layer.kernel)


def check_shape(layer: Layer, weights: LayerWeights | None, *, network: str = "MobileNet v1") -> None:
    """Raises WeightsError for weights that are missing, of another shape, or not finite."""
    if weights is None:
        raise WeightsError(f"the file has no layer {layer.name} of a {network}")
    shape = kernel_shape(layer)
    if weights.kernel.shape != shape or weights.bias.shape != (layer.out_channels,):
        raise WeightsError(
            f"layer {layer.name} has a kernel of {weights.kernel.shape} and a bias of "
            f"{weights.bias.shape}, expected {shape} and ({layer.out_channels},)"
        )
    if not (np.isfinite(weights.kernel).all() and np.isfinite(weights.bias).all()):
        raise WeightsError(f"layer {layer.name} holds values that are not finite")
