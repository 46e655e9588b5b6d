"""The wire contract: what requests may ask and what responses hold. Times in milliseconds."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_store.manifest import Precision

Decision = Literal["fits", "degraded", "infeasible", "pinned", "unbounded"]
OnMiss = Literal["best_effort", "reject"]


class ClassifyQuery(BaseModel):
    """Query parameters of `POST /v1/classify`; at most one of `latency_budget_ms` and `tier`."""

    model_config = ConfigDict(extra="forbid")

    latency_budget_ms: Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)] | None = Field(
        None, description="Milliseconds from the arrival of the request to the start of the response."
    )
    tier: str | None = Field(None, description="A named budget; see `GET /v1/tiers`.")
    task: str = Field("imagenet", description="What to answer; see `GET /v1/variants`.")
    variant: str | None = Field(None, description="Runs this very variant, whatever it takes.")
    top_k: int = Field(5, ge=1, le=1000, description="How many classes to return.")
    on_miss: OnMiss = Field(
        "best_effort",
        description="When the budget cannot be met: the fastest variant all the same, or an error.",
    )


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
    predicted_ms: float = Field(description="Expected total when the variant was chosen: the median.")
    bound_ms: float = Field(description="Expected total that almost all such requests keep.")
    total_ms: float = Field(description="From the arrival of the request head to this response.")
    receive_ms: float
    queue_ms: float
    decode_ms: float
    inference_ms: float
    threads: int = Field(description="That the inference used; several only on an idle device.")
    met: bool = Field(description="total_ms is within budget_ms; true when there is none.")


class ClassifyResponse(_Response):
    task: str
    variant: VariantRef
    decision: Decision
    predictions: list[Prediction]
    latency: Latency


class AccuracyInfo(_Response):
    top1: float
    top5: float
    source: Literal["published", "measured"]
    dataset: str
    pictures: int
    note: str = ""


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
    accuracy: AccuracyInfo | None
    measured: AccuracyInfo | None
    latency_ms: LatencyInfo | None
    provider: str | None
    loaded: bool
    licence: str | None
    problem: str | None = Field(None, description="Why the variant is not loaded.")


class VariantsResponse(_Response):
    variants: list[VariantInfo]


class TierInfo(_Response):
    name: str
    latency_budget_ms: float
    variant: str | None = Field(description="What a typical photo takes now; None when none fits.")


class TiersResponse(_Response):
    tiers: list[TierInfo]


class Status(_Response):
    status: str
