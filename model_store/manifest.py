"""What the store says about a task and about a variant: `task.json` and `variant.json`."""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from model_store.architecture import ALPHAS, RESOLUTIONS, MobileNetSpec
from model_store.sources import CHECKPOINTS_BY_NAME

Precision = Literal["fp32", "int8"]
Head = Literal["classification", "attributes"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]

# The most that any of nine networks lost on 510 labelled pictures (docs/quantisation.md).
ASSUMED_LOSS = 0.006
_LEAST_LOSS = 0.001  # what seems a gain is chance

_VARIANT_ID = re.compile(
    r"mobilenet_v1_(?P<alpha>1\.0|0\.75|0\.5|0\.25)"
    r"_(?P<resolution>224|192|160|128)_(?P<precision>fp32|int8)"
)


class _Manifest(BaseModel):
    # Unknown keys are kept out of the way, so that an older reader opens a newer store.
    model_config = ConfigDict(frozen=True, extra="ignore")


def variant_id(alpha: float, resolution: int, precision: Precision) -> str:
    """`mobilenet_v1_<alpha>_<resolution>_<precision>`; ValueError if there is no such variant."""
    if alpha not in ALPHAS or resolution not in RESOLUTIONS:
        raise ValueError(
            f"there is no variant of alpha {alpha} at {resolution} pixels: "
            f"alpha is one of {ALPHAS}, the resolution one of {RESOLUTIONS}"
        )
    return f"mobilenet_v1_{float(alpha)}_{resolution}_{precision}"


def parse_variant_id(text: str) -> tuple[float, int, Precision]:
    """(alpha, resolution, precision) of a variant id; ValueError if it is none."""
    match = _VARIANT_ID.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a variant id: expected mobilenet_v1_<alpha>_<resolution>_<precision>, "
            "as in mobilenet_v1_0.5_160_fp32"
        )
    precision: Precision = "int8" if match["precision"] == "int8" else "fp32"
    return float(match["alpha"]), int(match["resolution"]), precision


def is_variant_id(text: str) -> bool:
    return _VARIANT_ID.fullmatch(text) is not None


class Preprocessing(_Manifest):
    """From an upright picture to the model's input; scaling of values is inside the graph."""

    central_fraction: float = Field(default=0.875, gt=0, le=1)
    resize: Literal["bilinear"] = "bilinear"


class TaskManifest(_Manifest):
    """`task.json`: what a family of variants answers."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    title: str
    head: Head
    classes: int = Field(gt=0)
    labels: str = "labels.txt"
    synsets: str | None = None
    # Labels that are returned unless an operator chooses others; empty: all.
    returned: tuple[str, ...] = ()
    preprocessing: Preprocessing = Preprocessing()
    licence_notes: str = ""


class Accuracy(_Manifest):
    """Top-1 and top-5 as fractions, and where they come from."""

    top1: Fraction
    top5: Fraction
    source: Literal["published", "measured"]
    dataset: str
    pictures: int = Field(gt=0)
    note: str = ""

    @property
    def headline(self) -> float:
        """The one figure to rank and to quote by."""
        return self.top1


class FaceAccuracy(_Manifest):
    """Of the 40 attributes: mean accuracy and mean average precision, as fractions; of the age, the mean
    error in years. Each counts the pictures that have its label."""

    mean_accuracy: Fraction
    mean_average_precision: Fraction
    age_error_years: float = Field(ge=0)
    source: Literal["measured"] = "measured"
    dataset: str
    pictures: int = Field(gt=0)
    note: str = ""

    @property
    def headline(self) -> float:
        return self.mean_accuracy


AnyAccuracy = Accuracy | FaceAccuracy


class Origin(_Manifest):
    """Where the weights come from."""

    format: str
    location: str
    sha256: Sha256
    trained_resolution: int | None = None


class QuantizedFrom(_Manifest):
    """The float variant that an int8 one was made from, as it was then, and how."""

    variant: str
    sha256: Sha256
    accuracy: AnyAccuracy | None = None
    method: str


class VariantManifest(_Manifest):
    """`variant.json`: one (alpha, resolution, precision) of a task.

    `accuracy` is what to quote: the published figure where there is one, else the measured one.
    `measured` is the latest `model-store evaluate`.
    """

    id: str
    task: str
    alpha: float
    resolution: int
    precision: Precision
    mult_adds: int = Field(gt=0)
    parameters: int = Field(gt=0)
    accuracy: AnyAccuracy | None = None
    measured: AnyAccuracy | None = None
    origin: Origin
    quantized_from: QuantizedFrom | None = None
    licence: str
    sha256: Sha256

    @model_validator(mode="after")
    def _id_matches(self) -> Self:
        if self.id != variant_id(self.alpha, self.resolution, self.precision):
            raise ValueError(f"the id {self.id} does not match alpha, resolution and precision")
        return self

    @property
    def rho(self) -> float:
        return MobileNetSpec(self.alpha, self.resolution).rho

    @property
    def official_top1(self) -> float:
        """Published top-1 of the official checkpoint of this alpha, resolution and precision."""
        return official_top1(self.alpha, self.resolution, self.precision)

    def with_measured(self, measured: AnyAccuracy) -> Self:
        """This manifest after an evaluation; a published accuracy stays what is quoted."""
        published = self.accuracy is not None and self.accuracy.source == "published"
        accuracy = self.accuracy if published else measured
        return self.model_copy(update={"measured": measured, "accuracy": accuracy})


def official_top1(alpha: float, resolution: int, precision: Precision) -> float:
    """Published top-1 of the official checkpoint of this shape, as a fraction."""
    suffix = "_quant" if precision == "int8" else ""
    return CHECKPOINTS_BY_NAME[f"{alpha}_{resolution}{suffix}"].top1 / 100


def expected_top1(variants: list[VariantManifest]) -> dict[str, float]:
    """Top-1 by which variants of one task are ranked, on one scale, by variant id.

    A published figure counts as it is. One that was only measured, on an easier or harder set of
    pictures, is scaled by what published variants of this store lose there; below the resolution that
    its weights were trained at, it does not count for more than the official checkpoint that was trained
    there (a few hundred pictures cannot tell otherwise). Where nothing gives a scale, or nothing was
    measured, the official figure of the same shape stands in.

    One of faces, where nothing is published, counts as it was measured.

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
    if isinstance(accuracy, FaceAccuracy):
        return accuracy.mean_accuracy
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
