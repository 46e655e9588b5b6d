"""What the store says about a task and about a variant: `task.json` and `variant.json`."""

from typing import Annotated, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from model_store import ssd
from model_store.architecture import ALPHAS, RESOLUTIONS, MobileNetSpec
from model_store.sources import CHECKPOINTS_BY_NAME
from model_store.ssd import DETECTOR_RESOLUTIONS, SsdSpec

Precision = Literal["fp32", "int8"]
Family = Literal["mobilenet_v1", "ssd_mobilenet_v1"]
Head = Literal["classification", "attributes", "detection"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Of a file in the task's folder: no path leads out of the store.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
Fraction = Annotated[float, Field(ge=0, le=1)]

_SHAPES: dict[Family, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "mobilenet_v1": (ALPHAS, RESOLUTIONS),
    "ssd_mobilenet_v1": ((ssd.ALPHA,), DETECTOR_RESOLUTIONS),
}
_FAMILIES: dict[Head, Family] = {
    "classification": "mobilenet_v1",
    "attributes": "mobilenet_v1",
    "detection": "ssd_mobilenet_v1",
}


class _Manifest(BaseModel):
    # Unknown keys are kept out of the way, so that an older reader opens a newer store.
    model_config = ConfigDict(frozen=True, extra="ignore")


class VariantShape(NamedTuple):
    """What a variant's id says."""

    alpha: float
    resolution: int
    precision: Precision
    family: Family = "mobilenet_v1"

    @property
    def id(self) -> str:
        return f"{self.family}_{float(self.alpha)}_{self.resolution}_{self.precision}"

    def spec(self, classes: int = 1000) -> MobileNetSpec | SsdSpec:
        """The network of this shape, whose cost it tells; a detector has no classes."""
        if self.family == "ssd_mobilenet_v1":
            return SsdSpec(self.resolution)
        return MobileNetSpec(self.alpha, self.resolution, classes)


_SHAPES_BY_ID: dict[str, VariantShape] = {
    shape.id: shape
    for family, (alphas, resolutions) in _SHAPES.items()
    for alpha in alphas
    for resolution in resolutions
    for precision in get_args(Precision)
    for shape in [VariantShape(alpha, resolution, precision, family)]
}


def variant_id(alpha: float, resolution: int, precision: Precision, family: Family = "mobilenet_v1") -> str:
    """`<family>_<alpha>_<resolution>_<precision>`; ValueError if there is no such variant."""
    alphas, resolutions = _SHAPES[family]
    if alpha not in alphas or resolution not in resolutions:
        raise ValueError(
            f"there is no variant of alpha {alpha} at {resolution} pixels of {family}: "
            f"alpha is one of {alphas}, the resolution one of {resolutions}"
        )
    return VariantShape(alpha, resolution, precision, family).id


def parse_variant_id(text: str) -> VariantShape:
    """The shape that a variant id names; ValueError if it is none."""
    shape = _SHAPES_BY_ID.get(text)
    if shape is None:
        raise ValueError(
            f"{text!r} is not a variant id: expected mobilenet_v1_<alpha>_<resolution>_<precision>, "
            "as in mobilenet_v1_0.5_160_fp32, or ssd_mobilenet_v1_... for a detector"
        )
    return shape


def is_variant_id(text: str) -> bool:
    return text in _SHAPES_BY_ID


class Preprocessing(_Manifest):
    """From an upright picture to the model's input; scaling of values is inside the graph.

    `fit` "crop" takes the central fraction and stretches it to the square; "pad" keeps the whole picture and
    its proportions, at the top left of a black square.
    """

    fit: Literal["crop", "pad"] = "crop"
    central_fraction: float = Field(default=0.875, gt=0, le=1)
    resize: Literal["bilinear"] = "bilinear"


class TaskManifest(_Manifest):
    """`task.json`: what a family of variants answers."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    title: str
    head: Head
    classes: int = Field(gt=0)
    labels: FileName = "labels.txt"
    synsets: FileName | None = None
    # Labels that are returned unless an operator chooses others; empty: all.
    returned: tuple[str, ...] = ()
    preprocessing: Preprocessing = Preprocessing()
    licence_notes: str = ""

    @property
    def family(self) -> Family:
        """Of the task's variants."""
        return _FAMILIES[self.head]


class Accuracy(_Manifest):
    """Top-1 and top-5 as fractions, and where they come from."""

    name: ClassVar[str] = "top-1"  # of `headline`, as people call it

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

    name: ClassVar[str] = "mean accuracy"

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


class DetectionAccuracy(_Manifest):
    """Of all faces in a set of pictures, the fraction that is found; and the boxes that are no face."""

    name: ClassVar[str] = "recall"

    recall: Fraction
    false_boxes: int = Field(ge=0)
    source: Literal["measured"] = "measured"
    dataset: str
    pictures: int = Field(gt=0)
    note: str = ""

    @property
    def headline(self) -> float:
        return self.recall


AnyAccuracy = Accuracy | FaceAccuracy | DetectionAccuracy


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
    `measured` is the latest `model-store evaluate`. `golden` is what it answered where it was built, by
    picture (see `golden.py`).
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
    golden: dict[str, str] = {}

    @model_validator(mode="after")
    def _id_matches(self) -> Self:
        family: Family = "ssd_mobilenet_v1" if self.id.startswith("ssd_") else "mobilenet_v1"
        if self.id != variant_id(self.alpha, self.resolution, self.precision, family):
            raise ValueError(f"the id {self.id} does not match alpha, resolution and precision")
        return self

    @property
    def shape(self) -> VariantShape:
        return parse_variant_id(self.id)

    @property
    def rho(self) -> float:
        return self.shape.spec().rho

    def with_measured(self, measured: AnyAccuracy) -> Self:
        """This manifest after an evaluation; a published accuracy stays what is quoted."""
        published = self.accuracy is not None and self.accuracy.source == "published"
        accuracy = self.accuracy if published else measured
        return self.model_copy(update={"measured": measured, "accuracy": accuracy})


def official_top1(alpha: float, resolution: int, precision: Precision) -> float:
    """Published top-1 of the official checkpoint of this shape, as a fraction."""
    suffix = "_quant" if precision == "int8" else ""
    return CHECKPOINTS_BY_NAME[f"{alpha}_{resolution}{suffix}"].top1 / 100
