"""How accurate each variant of a task is expected to be, where figures come from different pictures."""

from model_store import ssd
from model_store.manifest import (
    AnyAccuracy,
    DetectionAccuracy,
    FaceAccuracy,
    Precision,
    VariantManifest,
    official_top1,
)

# The most that any of nine networks lost on 510 labelled pictures (docs/quantisation.md).
ASSUMED_LOSS = 0.01
_LEAST_LOSS = 0.001  # what seems a gain is chance


def expected_accuracies(variants: list[VariantManifest]) -> dict[str, float]:
    """By which variants of one task are ranked, on one scale, by variant id: their headline figure.

    A published figure counts as it is. One that was only measured, on an easier or harder set of
    pictures, is scaled by what published variants of this store lose there; below the resolution that
    its weights were trained at, it does not count for more than the official checkpoint that was trained
    there (a few hundred pictures cannot tell otherwise). Where nothing gives a scale, or nothing was
    measured, the official figure of the same shape stands in.

    Where nothing is published, as of faces and detectors, what was measured counts as it is.

    An int8 variant made here from a float one has the float one's rank less what quantising lost: as
    measured where both were, on the same pictures, else `ASSUMED_LOSS`. It never reaches the float one's.
    Used to rank, never reported.
    """
    scales, by_id = _scales(variants), {v.id: v for v in variants}
    return {v.id: _rank(v, by_id, scales) for v in variants}


def _rank(v: VariantManifest, by_id: dict[str, VariantManifest], scales: dict[str, float]) -> float:
    made_from = v.quantized_from
    if made_from is None:
        return _own_rank(v, v.precision, v.accuracy, scales)
    twin = by_id.get(made_from.variant)
    if twin is None or twin.sha256 != made_from.sha256:
        return max(0.0, _own_rank(v, "fp32", made_from.accuracy, scales) - ASSUMED_LOSS)
    loss = ASSUMED_LOSS
    ours, theirs = v.measured, twin.measured
    if ours and theirs and (ours.dataset, ours.pictures) == (theirs.dataset, theirs.pictures):
        loss = max(theirs.headline - ours.headline, _LEAST_LOSS)
    return max(0.0, _own_rank(twin, "fp32", twin.accuracy, scales) - loss)


def _own_rank(
    v: VariantManifest, precision: Precision, accuracy: AnyAccuracy | None, scales: dict[str, float]
) -> float:
    if v.shape.family == "ssd_mobilenet_v1":
        return ssd.RECALL[v.resolution] if accuracy is None else accuracy.headline
    if isinstance(accuracy, FaceAccuracy | DetectionAccuracy):
        return accuracy.headline
    official = official_top1(v.alpha, v.resolution, precision)
    if accuracy is None:
        return official
    if accuracy.source == "published":
        return accuracy.top1
    scale = scales.get(accuracy.dataset)
    if scale is None:
        return min(accuracy.top1, official)
    trained = v.origin.trained_resolution
    ceiling = official if trained is not None and trained > v.resolution else 1.0
    return min(accuracy.top1 * scale, ceiling)


def _scales(variants: list[VariantManifest]) -> dict[str, float]:
    """By set of pictures: mean ratio of published to measured top-1 of the variants with both."""
    ratios: dict[str, list[float]] = {}
    for v in variants:
        if v.accuracy and v.accuracy.source == "published" and v.measured and v.measured.headline:
            ratio = v.accuracy.headline / v.measured.headline
            ratios.setdefault(v.measured.dataset, []).append(ratio)
    return {dataset: sum(values) / len(values) for dataset, values in ratios.items()}
