"""`GET /v1/variants` and `GET /v1/tiers`."""

from typing import Annotated

from fastapi import APIRouter, Query

from model_store.imaging import ImageHeader
from model_store.manifest import VariantManifest, parse_variant_id
from service import errors
from service.catalog import LoadedDetector, LoadedVariant, RefusedVariant
from service.classification import Classification
from service.face_analysis import FaceAnalysis
from service.face_plans import FacePlan
from service.residency import on_demand, resident
from service.routes.dependencies import GUARDS, ServiceDep
from service.routes.descriptions import GUARDED, problems
from service.schemas import (
    LatencyInfo,
    TaskQuery,
    TierInfo,
    TiersResponse,
    VariantInfo,
    VariantsResponse,
)
from service.state import FACES, IMAGENET, Service

router = APIRouter()

# What `GET /v1/tiers` plans for: a photo of the size that ImageNet's have.
_TYPICAL = ImageHeader("JPEG", 500, 375, 100_000)

_REFUSALS = problems(*GUARDED, errors.UnknownTask, errors.NotReady)


@router.get("/v1/variants", response_model=VariantsResponse, dependencies=GUARDS, responses=_REFUSALS)
async def variants(query: Annotated[TaskQuery, Query()], service: ServiceDep) -> VariantsResponse:
    """Every variant of the store, best first; those that cannot serve say why."""
    catalog = service.catalog
    known = {
        **{v.manifest.task: None for v in catalog.everything()},
        **{r.task: None for r in catalog.refused},
    }
    if query.task is not None and query.task not in known:
        service.task(query.task)
    found = [_loaded(service, v) for v in catalog.everything() if query.task in (None, v.manifest.task)]
    found += [_refused(r) for r in catalog.refused if query.task in (None, r.task)]
    return VariantsResponse(variants=found)


@router.get("/v1/tiers", response_model=TiersResponse, dependencies=GUARDS, responses=_REFUSALS)
async def tiers(query: Annotated[TaskQuery, Query()], service: ServiceDep) -> TiersResponse:
    """Each tier, and the variant that it takes now for a photo of 500 x 375 pixels; without `task`, of
    ImageNet where the store has it."""
    work = _typical_work(service, _first_task(service) if query.task is None else query.task)
    found = []
    for name, budget_ms in service.settings.tiers.items():
        chosen = service.scheduler.choose_idle(work, budget_ms)
        plan = None if chosen is None else work.plans[chosen]
        found.append(
            TierInfo(
                name=name,
                latency_budget_ms=budget_ms,
                variant=None if plan is None else plan.variant.id,
                detector=plan.detector.id if isinstance(plan, FacePlan) else None,
            )
        )
    return TiersResponse(tiers=found)


def _first_task(service: Service) -> str:
    """ImageNet's, where the store has it."""
    tasks = service.catalog.tasks
    return IMAGENET if IMAGENET in tasks or not tasks else min(tasks)


def _typical_work(service: Service, task: str) -> Classification | FaceAnalysis:
    """Of faces: finding them too, where that is served."""
    if task == FACES and service.finds_faces:
        return FaceAnalysis(service.face_plans(), b"", _TYPICAL, max_faces=1)
    return Classification(service.task(task), b"", _TYPICAL)


def _loaded(service: Service, variant: LoadedVariant | LoadedDetector) -> VariantInfo:
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
        loaded=resident(variant.session) is not None,
        problem=next((each.problem for each in on_demand(variant.session)), None),
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
        accuracy=m.accuracy,
        measured=m.measured,
        latency_ms=latency_ms,
        provider=provider,
        loaded=loaded,
        licence=m.licence,
        problem=problem,
    )
