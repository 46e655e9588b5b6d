"""A detector in int8: the chain of convolutions as `quantize` has it, the predictors in float."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from model_store.quantize import RELU6, channel_means, one_thread, picture_quantization, quantize_chain
from model_store.quantized import Bytes
from model_store.ssd import SsdSpec
from model_store.ssd_weights import DetectorWeights, QuantizedDetector
from model_store.weights import LayerWeights


def quantize_detector(weights: DetectorWeights, pictures: Bytes) -> QuantizedDetector:
    """Quantises `weights`; `pictures`, uint8 [N, H, W, 3], have the resolution that it is meant for.

    Each predictor's bias is corrected like all others: its mean over the pictures is the float network's.
    """
    spec = SsdSpec(pictures.shape[1])
    predictors = {m.layer: tensors for m, tensors in zip(spec.maps, weights.predictors, strict=True)}
    layers = []
    with one_thread():
        chain = quantize_chain(spec.convolutions, weights.convolutions, weights.scaling, pictures)
        for layer, step in zip(spec.convolutions, chain, strict=True):
            layers.append(step.weights)
            if layer.name in predictors:
                missing = channel_means(step.real) - channel_means(step.maps) * RELU6.scale
                predictors[layer.name] = _corrected(predictors[layer.name], missing)
    activations = (picture_quantization(weights.scaling), *(RELU6 for _ in layers))
    return QuantizedDetector(tuple(layers), activations, tuple(predictors.values()))


def _corrected(predictor: LayerWeights, missing: npt.NDArray[np.float64]) -> LayerWeights:
    """`missing` [in] is what the mean of the quantised map lacks."""
    bias = predictor.bias + predictor.kernel[:, :, 0, 0] @ missing
    return replace(predictor, bias=bias.astype(np.float32))
