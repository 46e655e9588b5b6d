"""A MobileNet v1 in torch, built of the same layers as the ONNX graph: `SAME` padding, BatchNorm, ReLU6."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model_store.architecture import MobileNetSpec, same_padding
from model_store.faces import ATTRIBUTES, OUTPUTS
from model_store.trained import EPSILON, NormalizedLayer, TrainedNetwork
from model_store.weights import FloatArray, LayerWeights, NetworkWeights

_HEAD_DEVIATION = 0.01


class MobileNet(nn.Module):
    """From pictures [N, 3, H, W] in [-1, 1] to logits [N, outputs] of the attributes and the ages."""

    def __init__(self, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.alpha = alpha
        *layers, head = MobileNetSpec(alpha, 224, OUTPUTS).layers
        self.names = [layer.name for layer in layers]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel,
                layer.stride,
                groups=layer.in_channels if layer.kind == "depthwise" else 1,
                bias=False,
            )
            for layer in layers
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(layer.out_channels, eps=EPSILON) for layer in layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(head.in_channels, OUTPUTS)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(self.features(pictures)))

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N, 1024 alpha]: the pooled maps of the last layer."""
        maps = pictures
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            maps = F.relu6(norm(convolve(convolution, maps)))  # in place, autograd would copy first
        return maps.mean(dim=(2, 3))


def convolve(convolution: nn.Conv2d, maps: torch.Tensor) -> torch.Tensor:
    """With TensorFlow's padding, which torch cannot name: at stride 2 it is not the same on both sides.

    A depthwise layer of stride 2 is computed in float32 under autocast too: in bfloat16 its backward pass has
    no fast kernel and took 54 to 126 ms a layer, in float32 1 to 7 (oneDNN, alpha 1.0 at 128 pixels).
    """
    if convolution.groups > 1 and convolution.stride[0] == 2:
        with torch.autocast("cpu", enabled=False):
            return _convolve(convolution, maps.float()).to(maps.dtype)
    return _convolve(convolution, maps)


def _convolve(convolution: nn.Conv2d, maps: torch.Tensor) -> torch.Tensor:
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    before, after = same_padding(maps.shape[-1], kernel, stride)
    if before == after:
        return F.conv2d(maps, convolution.weight, None, stride, before, 1, convolution.groups)
    return F.conv2d(
        F.pad(maps, (before, after, before, after)),
        convolution.weight,
        None,
        stride,
        0,
        1,
        convolution.groups,
    )


def start_from(network: MobileNet, weights: NetworkWeights, pictures: torch.Tensor, seed: int) -> None:
    """Takes over the body of a network whose BatchNorm is folded; the heads start near zero.

    BatchNorm becomes what leaves the body's answers as they are: its statistics are those of `pictures`.
    """
    generator = torch.Generator().manual_seed(seed)
    maps = pictures
    scale = weights.scaling.scale * 127.5
    layers = zip(network.convolutions, network.norms, weights.layers, strict=False)
    with torch.no_grad():
        for index, (convolution, norm, layer) in enumerate(layers):
            kernel = torch.from_numpy(np.ascontiguousarray(layer.kernel))
            convolution.weight.copy_(kernel * scale if index == 0 else kernel)
            sums = convolve(convolution, maps)
            variance, mean = torch.var_mean(sums, dim=(0, 2, 3), correction=0)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + EPSILON).sqrt())
            norm.bias.copy_(torch.from_numpy(layer.bias) + mean)
            maps = F.relu6(sums + torch.from_numpy(layer.bias).reshape(1, -1, 1, 1))
        network.classifier.weight.normal_(0, _HEAD_DEVIATION, generator=generator)
        network.classifier.bias.zero_()


def fit_statistics(network: MobileNet, batches: Iterable[torch.Tensor]) -> None:
    """Sets BatchNorm's statistics to the mean over `batches` of one resolution; leaves evaluation mode on."""
    for norm in network.norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    network.train()
    with torch.no_grad():
        for batch in batches:
            network.features(batch)
    network.eval()


def scores(network: MobileNet, pictures: torch.Tensor) -> torch.Tensor:
    """[N, outputs] probabilities, as `model_store.faces` orders them."""
    logits = network(pictures)
    attributes, ages = logits[:, : len(ATTRIBUTES)], logits[:, len(ATTRIBUTES) :]
    return torch.cat([attributes.sigmoid(), ages.softmax(1)], 1)


def to_trained(
    network: MobileNet, resolutions: tuple[int, ...], fit: Callable[[int], None]
) -> TrainedNetwork:
    """The network with the statistics that `fit(resolution)` leaves in it, for each of `resolutions`."""
    statistics = []
    for resolution in resolutions:
        fit(resolution)
        statistics.append([(_numpy(norm.running_mean), _numpy(norm.running_var)) for norm in network.norms])
    convolutions = []
    for index, (convolution, norm) in enumerate(zip(network.convolutions, network.norms, strict=True)):
        means, variances = zip(*(at[index] for at in statistics), strict=True)
        convolutions.append(
            NormalizedLayer(
                _numpy(convolution.weight),
                _numpy(norm.weight),
                _numpy(norm.bias),
                np.stack(means),
                np.stack(variances),
            )
        )
    classifier = LayerWeights(_numpy(network.classifier.weight), _numpy(network.classifier.bias))
    return TrainedNetwork(network.alpha, resolutions, tuple(convolutions), classifier)


def from_trained(trained: TrainedNetwork, resolution: int) -> MobileNet:
    """The same network again, with the statistics of one resolution, in evaluation mode."""
    return copied(trained, resolution).to(memory_format=torch.channels_last).eval()


def copied(trained: TrainedNetwork, resolution: int, dropout: float = 0.0) -> MobileNet:
    """The same network again, to train it further."""
    network = MobileNet(trained.alpha, dropout)
    index = trained.resolutions.index(resolution)
    with torch.no_grad():
        for convolution, norm, layer in zip(
            network.convolutions, network.norms, trained.convolutions, strict=True
        ):
            convolution.weight.copy_(torch.from_numpy(layer.kernel))
            norm.weight.copy_(torch.from_numpy(layer.gamma))
            norm.bias.copy_(torch.from_numpy(layer.beta))
            norm.running_mean.copy_(torch.from_numpy(layer.mean[index]))
            norm.running_var.copy_(torch.from_numpy(layer.variance[index]))
        network.classifier.weight.copy_(torch.from_numpy(trained.classifier.kernel))
        network.classifier.bias.copy_(torch.from_numpy(trained.classifier.bias))
    return network


def _numpy(tensor: torch.Tensor) -> FloatArray:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32).copy()
