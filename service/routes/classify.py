"""`POST /v1/classify`."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from model_store.runtime import Scores
from service import errors
from service.catalog import LoadedVariant, TaskCatalog
from service.routes.dependencies import check_api_key, parse_query, query_parameters
from service.routes.direct import DirectRoute
from service.routes.inference import account, resolve_budget_ms, run_while_connected, server_timing
from service.scheduler import Picture, now_ms
from service.schemas import (
    ClassifyQuery,
    ClassifyResponse,
    Prediction,
    VariantRef,
)
from service.state import Service
from service.uploads import check_picture, read_picture

router = APIRouter(route_class=DirectRoute)

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PART = {"type": "object", "properties": {"image": _BINARY["schema"]}, "required": ["image"]}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
        "multipart/form-data": {"schema": _PART},
    },
}


@router.post(
    "/v1/classify",
    response_model=ClassifyResponse,
    openapi_extra={"requestBody": _BODY, "parameters": query_parameters(ClassifyQuery)},
    summary="What is in this picture, within the latency budget",
)
async def classify(request: Request) -> Response:
    """Runs the most accurate variant that meets the budget under the present load."""
    service: Service = request.app.state.service
    check_api_key(request, service)
    query = parse_query(request, ClassifyQuery)
    arrival: float = request.state.arrival
    task, pinned = _target(service, query)
    settings = service.settings
    budget_ms = resolve_budget_ms(settings.tiers, query.latency_budget_ms, query.tier)
    data = await read_picture(request, settings.max_body_bytes)
    header = check_picture(data, settings.max_pixels)
    received = now_ms()
    picture = Picture(task, data, header, arrival, budget_ms, pinned, query.on_miss == "reject")
    outcome = await run_while_connected(service.scheduler, picture, request)
    predictions = _predictions(outcome.scores, task, query.top_k)
    latency = account(outcome, budget_ms, arrival, received)
    answer = ClassifyResponse(
        task=task.manifest.name,
        variant=_reference(outcome.variant),
        decision=outcome.decision,
        predictions=predictions,
        latency=latency,
    )
    content = answer.model_dump_json()
    service.scheduler.answered(outcome)
    return Response(
        content,
        media_type="application/json",
        headers={"Server-Timing": server_timing(latency)},
    )


def _target(service: Service, query: ClassifyQuery) -> tuple[TaskCatalog, LoadedVariant | None]:
    task = service.task(query.task)
    if query.variant is None:
        return task, None
    pinned = task.find(query.variant)
    if pinned is None:
        raise errors.UnknownVariant(query.variant, [v.id for v in task.variants])
    return task, pinned


def _predictions(scores: Scores, task: TaskCatalog, top_k: int) -> list[Prediction]:
    # The threshold first: sorting all classes takes ten times as long. Ties go to the lower index.
    threshold = np.partition(scores, -top_k)[-top_k] if top_k < len(scores) else scores.min()
    candidates = np.flatnonzero(scores >= threshold)
    best = candidates[np.argsort(-scores[candidates], kind="stable")][:top_k]
    return [
        Prediction(
            index=int(i),
            label=task.labels[i],
            synset=task.synsets[i] if task.synsets else None,
            score=round(float(scores[i]), 6),
        )
        for i in best
    ]


def _reference(variant: LoadedVariant) -> VariantRef:
    m = variant.manifest
    return VariantRef(id=m.id, alpha=m.alpha, resolution=m.resolution, precision=m.precision)
