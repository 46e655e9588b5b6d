"""The head alone, fitted to the labels when the rest is trained.

What a network learns from is moved, turned, tinted and drawn to a teacher's answers; what it is asked later
is plain. Of the last layer alone the whole loss can be minimised: what it reads is computed once.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from model_store.graph import build_classifier
from model_store.progress import track
from model_store.runtime import OnnxSession
from model_store.trained import TrainedNetwork
from model_store.training.augment import resized
from model_store.training.losses import loss
from model_store.training.pictures import FaceSet
from model_store.training.targets import Targets
from model_store.weights import LayerWeights

# The price of each squared step away from the weights that training found. A tenth of it begins to overfit.
_HOLD = 0.01
_MOST_PICTURES = 8000  # of each set
_BATCH = 16
_ITERATIONS = 60

Rows = npt.NDArray[np.int64]


def with_fitted_head(
    network: TrainedNetwork, faces: Sequence[FaceSet], labels: Sequence[Targets], name: str
) -> TrainedNetwork:
    """The same network with the head that has the least loss on plain training pictures of all resolutions,
    near the one it had. `name` is for the progress."""
    chosen = [_thinned(f.training_rows) for f in faces]
    features = _features(network, faces, chosen, name)
    parts = zip(*(t.of(rows) for t, rows in zip(labels, chosen, strict=True)), strict=True)
    repeats = len(network.resolutions)  # the labels are the same at each
    targets = [torch.from_numpy(np.concatenate(part * repeats)) for part in parts]
    return replace(network, classifier=_fitted(features, targets, network.classifier))


def _fitted(features: torch.Tensor, targets: Sequence[torch.Tensor], head: LayerWeights) -> LayerWeights:
    start = torch.from_numpy(head.kernel)
    kernel, bias = start.clone().requires_grad_(), torch.from_numpy(head.bias).clone().requires_grad_()
    optimizer = torch.optim.LBFGS([kernel, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        found = loss(features @ kernel.T + bias, *targets) + _HOLD * (kernel - start).square().sum()
        found.backward()
        return found

    optimizer.step(evaluate)
    return LayerWeights(kernel.detach().numpy(), bias.detach().numpy())


def _features(
    network: TrainedNetwork, faces: Sequence[FaceSet], chosen: Sequence[Rows], name: str
) -> torch.Tensor:
    """[resolutions * pictures, 1024 alpha]: one resolution after the other, and in it one set."""
    found: list[npt.NDArray[np.float32]] = []
    done, total = 0, len(network.resolutions) * sum(map(len, chosen))
    with track(f"features {name}", total, unit="pictures") as tracker:
        for resolution in network.resolutions:
            model = build_classifier(network.at(resolution), "attributes")
            session = OnnxSession(model, torch.get_num_threads())
            for f, rows in zip(faces, chosen, strict=True):
                for start in range(0, len(rows), _BATCH):
                    images = np.ascontiguousarray(f.images[rows[start : start + _BATCH]])
                    found.append(session.features(resized(images, resolution)))
                    done += len(images)
                    tracker.update(done)
    return torch.from_numpy(np.concatenate(found))


def _thinned(rows: Rows) -> Rows:
    return rows[:: max(1, math.ceil(len(rows) / _MOST_PICTURES))]
