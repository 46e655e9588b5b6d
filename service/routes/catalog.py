"""`GET /v1/variants` and `GET /v1/tiers`."""

from typing import Annotated

from fastapi import APIRouter, Query

from model_store.imaging import ImageHeader
from model_store.manifest import Accuracy, AnyAccuracy, VariantManifest, parse_variant_id
from service.catalog import LoadedVariant, RefusedVariant
from service.routes.dependencies import GUARDS, ServiceDep
from service.schemas import (
    AccuracyInfo,
    LatencyInfo,
    TaskQuery,
    TierInfo,
    TiersResponse,
    VariantInfo,
    VariantsResponse,
)
from service.state import Service

router = APIRouter()

# What `GET /v1/tiers` plans for: a photo of the size that ImageNet's have.
_TYPICAL = ImageHeader("JPEG", 500, 375, 100_000)


@router.get("/v1/variants", response_model=VariantsResponse, dependencies=GUARDS)
async def variants(query: Annotated[TaskQuery, Query()], service: ServiceDep) -> VariantsResponse:
    """Every variant of the store, best first; those that cannot serve say why."""
    catalog = service.catalog
    if query.task is not None and query.task not in {r.task for r in catalog.refused}:
        service.task(query.task)
    wanted = [name for name in catalog.tasks if query.task in (None, name)]
    found = [_loaded(service, v) for name in wanted for v in catalog.tasks[name].variants]
    found += [_refused(r) for r in catalog.refused if r.task in wanted]
    return VariantsResponse(variants=found)


@router.get("/v1/tiers", response_model=TiersResponse, dependencies=GUARDS)
async def tiers(query: Annotated[TaskQuery, Query()], service: ServiceDep) -> TiersResponse:
    """Each tier, and the variant that it takes now for a photo of 500 x 375 pixels."""
    task = service.task(query.task or "imagenet")
    found = []
    for name, budget_ms in service.settings.tiers.items():
        variant = service.scheduler.choose_idle(task, _TYPICAL, budget_ms)
        found.append(
            TierInfo(name=name, latency_budget_ms=budget_ms, variant=variant.id if variant else None)
        )
    return TiersResponse(tiers=found)


def _loaded(service: Service, variant: LoadedVariant) -> VariantInfo:
    profiled, live = service.scheduler.latencies(variant)
    return _info(
        variant.manifest,
        latency_ms=LatencyInfo(
            p50=round(profiled.p50, 3),
            p95=round(profiled.p95, 3),
            live_p50=round(live.p50, 3) if live else None,
            live_p95=round(live.p95, 3) if live else None,
        ),
        provider=variant.session.provider,
        loaded=True,
    )


def _refused(variant: RefusedVariant) -> VariantInfo:
    if variant.manifest is not None:
        return _info(variant.manifest, loaded=False, problem=variant.problem)
    # The manifest is what is broken; the id still tells the architecture.
    shape = parse_variant_id(variant.id)
    spec = shape.spec()
    return VariantInfo(
        id=variant.id,
        task=variant.task,
        alpha=shape.alpha,
        rho=spec.rho,
        resolution=shape.resolution,
        precision=shape.precision,
        mult_adds=spec.mult_adds,
        parameters=spec.parameters,
        accuracy=None,
        measured=None,
        latency_ms=None,
        provider=None,
        loaded=False,
        licence=None,
        problem=variant.problem,
    )


def _info(
    m: VariantManifest,
    *,
    loaded: bool,
    latency_ms: LatencyInfo | None = None,
    provider: str | None = None,
    problem: str | None = None,
) -> VariantInfo:
    return VariantInfo(
        id=m.id,
        task=m.task,
        alpha=m.alpha,
        rho=m.rho,
        resolution=m.resolution,
        precision=m.precision,
        mult_adds=m.mult_adds,
        parameters=m.parameters,
        accuracy=_accuracy(m.accuracy),
        measured=_accuracy(m.measured),
        latency_ms=latency_ms,
        provider=provider,
        loaded=loaded,
        licence=m.licence,
        problem=problem,
    )


def _accuracy(accuracy: AnyAccuracy | None) -> AccuracyInfo | None:
    return AccuracyInfo(**accuracy.model_dump()) if isinstance(accuracy, Accuracy) else None
