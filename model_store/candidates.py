"""Which execution provider runs a variant: one whose answers are the CPU provider's, if it is faster."""

import numpy as np

from model_store.faces import split_scores
from model_store.imaging import UInt8Array, decode, sample_picture
from model_store.manifest import Head, Precision, Preprocessing
from model_store.profile import Quantiles
from model_store.runtime import CPU, ModelUnusable, OnnxSession, Scores, Session

# The most by which the probability of any set of classes may differ (total variation distance). Providers
# add floats in another order: 4e-6 on real pictures. In int8 a sum at the edge of a step falls to either
# side, and what follows sees the other step: 0.026 (OpenVINO, 1.0_224 and 0.25_128). Sums that overflow, a
# channel or a padding that is lost are far beyond both.
_MOST_APART: dict[Precision, float] = {"fp32": 1e-3, "int8": 0.1}
_LEAST_GAIN = 1.05  # of another provider, to be worth its memory and to be no accident of the measurement
_SIZE = 400  # of the pictures that are compared, before they are decoded for the variant


def open_agreeing(
    model: bytes,
    reference: Session,
    precision: Precision,
    provider: str,
    *,
    resolution: int,
    head: Head,
    threads: int = 1,
    callers: int = 1,
) -> OnnxSession:
    """A session on `provider` that answers as `reference` does on the CPU's.

    Raises ModelUnusable where it cannot be made, fails to run, or answers otherwise.
    """
    session = OnnxSession(model, threads, provider=provider, callers=callers, resolution=resolution)
    for image in _pictures(resolution):
        try:
            found = session.run(image[np.newaxis])
        except Exception as error:  # onnxruntime's own classes share no base
            raise ModelUnusable(f"{provider} fails to run the model") from error
        apart = distance(reference.run(image[np.newaxis]), found, head)
        if not apart <= _MOST_APART[precision]:  # not a number is no agreement
            raise ModelUnusable(f"{provider} answers otherwise than the CPU: {apart:.2g} apart")
    return session


def distance(expected: Scores, found: Scores, head: Head = "classification") -> float:
    """The largest total variation distance of the distributions [N, classes]; infinite for other shapes.

    Of attributes each is a distribution of its own, of yes and no, and the age is one.
    """
    if expected.shape != found.shape:
        return float("inf")
    apart = np.abs(expected.astype(np.float64) - found)
    if head != "attributes":
        return float(apart.sum(axis=1).max() / 2)
    attributes, ages = split_scores(apart)
    return float(max(attributes.max(), ages.sum(axis=1).max() / 2))


def fastest(times: dict[str, Quantiles]) -> str:
    """The provider to use, by the times of those that agree; the CPU's unless another gains enough."""
    best = min(times, key=lambda provider: times[provider].p50)
    return best if times[best].p50 * _LEAST_GAIN <= times[CPU].p50 else CPU


def _pictures(resolution: int) -> list[UInt8Array]:
    """Photo-like: smooth, grainy, noisy; and all black and all white, where sums are largest."""
    photos = [sample_picture("JPEG", _SIZE, _SIZE, grain=grain) for grain in (0, 8, 40)]
    decoded = [decode(photo, resolution, Preprocessing()) for photo in photos]
    return [*decoded, *(np.full_like(decoded[0], level) for level in (0, 255))]
