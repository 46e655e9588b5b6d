"""A narrower network cut out of a wider one: the channels that matter most stay. Pure."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from model_store.architecture import MobileNetSpec
from model_store.weights import FloatArray, LayerWeights, NetworkWeights


def slice_width(weights: NetworkWeights, alpha: float) -> NetworkWeights:
    """Of `alpha` at most that of `weights`. A channel's importance is the norm of what it puts out times the
    norm of what the next layer makes of it; those kept stay in their order."""
    narrow = MobileNetSpec(alpha, 224, weights.classes).layers
    wide = weights.spec(224).layers
    kept = np.arange(wide[0].in_channels)
    layers = []
    for index, (source, target) in enumerate(zip(wide, narrow, strict=True)):
        kernel, bias = weights.layers[index].kernel, weights.layers[index].bias
        if source.kind == "depthwise":
            layers.append(LayerWeights(kernel[kept], bias[kept]))
            continue
        kernel = kernel[:, kept]
        if source.kind == "dense":
            layers.append(LayerWeights(kernel, bias))
            continue
        following = index + 1
        reading = weights.layers[following].kernel
        if wide[following].kind == "depthwise":  # which hands each channel on to the pointwise after it
            gain = _norms(reading, 0) * _norms(weights.layers[following + 1].kernel, 1)
        else:
            gain = _norms(reading, 1)
        kept = np.sort(np.argsort(-_norms(kernel, 0) * gain, kind="stable")[: target.out_channels])
        layers.append(LayerWeights(kernel[kept], bias[kept]))
    return replace(weights, alpha=alpha, layers=tuple(layers))


def _norms(kernel: FloatArray, axis: int) -> npt.NDArray[np.float64]:
    """Of the slices along `axis`."""
    rows = np.moveaxis(kernel.astype(np.float64), axis, 0).reshape(kernel.shape[axis], -1)
    return np.asarray(np.linalg.norm(rows, axis=1))
