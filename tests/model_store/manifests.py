"""Manifests of variants that there are not."""

from model_store.manifest import Accuracy, Origin, Precision, VariantManifest, variant_id


def accuracy(top1: float, source: str = "published", dataset: str = "full") -> Accuracy:
    values = {"top1": top1, "top5": 1.0, "source": source, "dataset": dataset, "pictures": 500}
    return Accuracy.model_validate(values)


def variant(
    alpha: float = 1.0,
    resolution: int = 224,
    precision: Precision = "fp32",
    *,
    quoted: Accuracy | None = None,
    measured: Accuracy | None = None,
    weights: str = "a",
    trained: int | None = None,
) -> VariantManifest:
    return VariantManifest(
        id=variant_id(alpha, resolution, precision),
        task="imagenet",
        alpha=alpha,
        resolution=resolution,
        precision=precision,
        mult_adds=1,
        parameters=1,
        accuracy=quoted,
        measured=measured,
        origin=Origin(format="x", location="y", sha256=weights * 64, trained_resolution=trained),
        licence="Apache-2.0",
        sha256="0" * 64,
    )
