"""The wire contract: what requests may ask and what responses hold. Times in milliseconds."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_store.detect import MAX_FACES
from model_store.manifest import AnyAccuracy, Precision

Decision = Literal["fits", "degraded", "infeasible", "pinned", "unbounded"]


def told(decision: Decision, *, met: bool) -> Decision:
    """The decision as an answer tells it: what no variant was sure to fit, and the fastest met all the same,
    fits."""
    return "fits" if met and decision == "infeasible" else decision


OnMiss = Literal["best_effort", "reject"]


class BudgetQuery(BaseModel):
    """What every inference may be asked; at most one of `latency_budget_ms` and `tier`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_budget_ms: Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)] | None = Field(
        None, description="Milliseconds from the arrival of the request to the start of the response."
    )
    tier: str | None = Field(None, description="A named budget; see `GET /v1/tiers`.")
    variant: str | None = Field(None, description="Runs this very variant, whatever it takes.")
    on_miss: OnMiss = Field(
        "best_effort",
        description="When the budget cannot be met: the fastest variant all the same, or an error.",
    )


class ClassifyQuery(BudgetQuery):
    """Query parameters of `POST /v1/classify`."""

    task: str = Field("imagenet", description="What to answer; see `GET /v1/variants`.")
    top_k: int = Field(5, ge=1, le=1000, description="How many classes to return.")


class FaceAttributesQuery(BudgetQuery):
    """Query parameters of `POST /v1/face-attributes`."""

    faces: Literal["detect", "cropped"] = Field(
        "detect", description="Whether to find the faces first, or the picture is one aligned face."
    )
    max_faces: int = Field(10, ge=1, le=MAX_FACES, description="How many faces to tell about, the surest.")


class TaskQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    task: str | None = Field(None, description="Only this task.")


class _Response(BaseModel):
    model_config = ConfigDict(frozen=True)


class VariantRef(_Response):
    id: str
    alpha: float
    resolution: int
    precision: Precision


class Prediction(_Response):
    index: int = Field(description="0-based class, without a background class.")
    label: str
    synset: str | None = None
    score: float = Field(description="Probability, 0 to 1.")


class Latency(_Response):
    budget_ms: float | None = Field(description="None when no budget was given.")
    predicted_ms: float = Field(
        description="Expected total when the variant was chosen: the median; and what was run ahead since."
    )
    bound_ms: float = Field(description="Expected total, likewise, that almost all such requests keep.")
    total_ms: float = Field(description="From the arrival of the request head to this response.")
    receive_ms: float
    queue_ms: float = Field(description="Waiting for a worker, and for a variant that was not in memory.")
    decode_ms: float = Field(description="Of both pictures, where one run answered two without a budget.")
    inference_ms: float = Field(description="Likewise.")
    threads: int = Field(description="That the inference used; several only on an idle device.")
    met: bool = Field(description="total_ms is within budget_ms; true when there is none.")


class ClassifyResponse(_Response):
    task: str
    variant: VariantRef
    decision: Decision
    predictions: list[Prediction]
    latency: Latency


class Box(_Response):
    """In pixels of the upright picture."""

    x: float
    y: float
    width: float
    height: float


class AgeEstimate(_Response):
    """In years: the estimate, and the ends of the interval that holds it in 8 of 10 cases."""

    years: float
    low: float
    high: float


class FaceAttributes(_Response):
    box: Box
    score: float | None = Field(description="Probability of a face; None with `faces=cropped`.")
    age: AgeEstimate
    attributes: dict[str, float] = Field(description="Probability of each.")


class ImageSize(_Response):
    """In pixels, upright."""

    width: int
    height: int


class FaceAttributesResponse(_Response):
    task: str
    variant: VariantRef
    detector: VariantRef | None = Field(description="What found the faces; None with `faces=cropped`.")
    decision: Decision
    image: ImageSize
    faces: list[FaceAttributes] = Field(description="The surest first.")
    faces_found: int = Field(description="In the picture; more than `faces` where `limited_by` says why.")
    limited_by: Literal["max_faces", "time"] | None
    latency: Latency


class LatencyInfo(_Response):
    """Inference alone: measured at the start, and over the latest runs (None before there are enough)."""

    p50: float
    p95: float
    live_p50: float | None = None
    live_p95: float | None = None


class VariantInfo(_Response):
    id: str
    task: str
    alpha: float
    rho: float
    resolution: int
    precision: Precision
    mult_adds: int
    parameters: int
    accuracy: AnyAccuracy | None
    measured: AnyAccuracy | None
    latency_ms: LatencyInfo | None
    provider: str | None
    loaded: bool = Field(description="In memory now. One without a problem is loaded when it is asked for.")
    licence: str | None
    problem: str | None = Field(None, description="Why the variant cannot be loaded.")


class VariantsResponse(_Response):
    variants: list[VariantInfo]


class TierInfo(_Response):
    name: str
    latency_budget_ms: float
    variant: str | None = Field(description="What a typical photo takes now; None when none fits.")
    detector: str | None = Field(None, description="For faces: what finds them then.")


class TiersResponse(_Response):
    tiers: list[TierInfo]


class Status(_Response):
    status: str
