"""Golden pictures: every variant has to answer them as it did where it was built.

They are drawn in whole numbers, so that they are the same bytes everywhere and no decoder has a part in it.
They are chosen for what they show: in four networks, weights whose sums overflow (docs/quantisation.md) move
the answer to `slopes` by 0.06 to 0.58 and that to `white` by 0.04 to 0.71. A picture that looks like
something to the network has one sure answer, and hides it (0.0002).
"""

import numpy as np
import numpy.typing as npt

from model_store.faces import split_scores
from model_store.imaging import UInt8Array
from model_store.manifest import Head, Precision, VariantManifest
from model_store.runtime import ModelUnusable, OnnxDetector, OnnxSession, Scores

# Half the sum of all differences. In fp32 sums differ by their order: by 5e-6 between x86-64 and ARM cores.
# In int8 all kernels gave the same to 1e-4; where one rounds otherwise, and what follows sees the next step,
# all classes together moved by 0.026 (OpenVINO).
_MOST_APART: dict[Precision, float] = {"fp32": 1e-3, "int8": 0.03}
_MOST_FROM_ONE = 1e-2  # of the sum of a distribution
_SETS = 64

_Numbers = npt.NDArray[np.float64]


class WrongAnswer(ModelUnusable):
    """The model runs here, and its answer is wrong."""


def pictures(resolution: int) -> dict[str, UInt8Array]:
    """By name, uint8 [1, resolution, resolution, 3]. Manifests have the names: change both, or none."""
    y, x = (axis * 4096 // resolution for axis in np.ogrid[:resolution, :resolution])
    slopes = np.stack(np.broadcast_arrays(x >> 4, y >> 4, 255 - ((x + y) >> 5)), axis=-1).astype(np.uint8)
    return {"slopes": slopes[np.newaxis], "white": np.full((1, resolution, resolution, 3), 255, np.uint8)}


def answers(session: OnnxSession | OnnxDetector, head: Head, resolution: int) -> dict[str, str]:
    """For the manifest, by picture. Raises WrongAnswer where one is no answer of `head`."""
    found = _answers(session, head, resolution)
    return {name: " ".join(f"{number:.5f}" for number in numbers) for name, numbers in found.items()}


def check(session: OnnxSession | OnnxDetector, head: Head, manifest: VariantManifest) -> None:
    """Raises WrongAnswer when the model's answer is none of `head`, or not the one of its manifest.

    What is not known here is passed over: nothing is expected of older manifests' variants.
    """
    for name, numbers in _answers(session, head, manifest.resolution).items():
        if name not in manifest.golden:
            continue
        try:
            wanted = np.array(manifest.golden[name].split(), np.float64)
        except ValueError:
            raise WrongAnswer(f"its answer to {name!r} cannot be read in its manifest") from None
        apart = np.abs(numbers - wanted).sum() / 2 if numbers.shape == wanted.shape else np.inf
        if not apart <= _MOST_APART[manifest.precision]:
            raise WrongAnswer(f"its answer to {name!r} is {apart:.2g} apart from that where it was built")


def _answers(session: OnnxSession | OnnxDetector, head: Head, resolution: int) -> dict[str, _Numbers]:
    return {name: _answer(session, head, image) for name, image in pictures(resolution).items()}


def _answer(session: OnnxSession | OnnxDetector, head: Head, image: UInt8Array) -> _Numbers:
    """Few numbers that all of the answer goes into, so that they fit into a manifest.

    Of classes and attributes the sums of `_SETS` sets, by index: they differ by no more than all of them do.
    Of a detector the largest score in each such set of anchors, and the mean of each offset.
    """
    if isinstance(session, OnnxDetector):
        offsets, scores = session.run(image)
        distribution = None
        numbers = np.append(_sets(scores).max(axis=0), offsets.mean(axis=(0, 1), dtype=np.float64))
    else:
        scores = session.run(image)
        distribution = split_scores(scores)[1] if head == "attributes" else scores
        numbers = _sets(scores).sum(axis=0)
    if not np.isfinite(numbers).all() or scores.min() < 0 or scores.max() > 1 + _MOST_FROM_ONE:
        raise WrongAnswer("its scores are no probabilities")
    total = 1.0 if distribution is None else float(distribution.sum())
    if not abs(total - 1) <= _MOST_FROM_ONE:
        raise WrongAnswer(f"its probabilities sum to {total:.3g}")
    return numbers


def _sets(scores: Scores) -> _Numbers:
    """[1, n] to [n / sets, sets], filled up with zeros."""
    (row,) = scores.astype(np.float64)
    return np.pad(row, (0, -len(row) % _SETS)).reshape(-1, _SETS)
