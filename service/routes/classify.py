"""`POST /v1/classify`."""

import asyncio
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from model_store.runtime import Scores
from service import errors
from service.catalog import LoadedVariant, TaskCatalog
from service.routes.dependencies import GUARDS, ServiceDep
from service.scheduler import Outcome, Picture, Scheduler, now_ms
from service.schemas import (
    ClassifyQuery,
    ClassifyResponse,
    Latency,
    Prediction,
    VariantRef,
)
from service.state import Service
from service.uploads import check_picture, read_picture

router = APIRouter()

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
    dependencies=GUARDS,
    openapi_extra={"requestBody": _BODY},
    summary="What is in this picture, within the latency budget",
)
async def classify(
    request: Request, query: Annotated[ClassifyQuery, Query()], service: ServiceDep
) -> Response:
    """Runs the most accurate variant that meets the budget under the present load."""
    arrival: float = request.state.arrival
    task, pinned = _target(service, query)
    budget_ms = _budget_ms(service, query)
    settings = service.settings
    data = await read_picture(request, settings.max_body_bytes)
    header = check_picture(data, settings.max_pixels)
    received = now_ms()
    picture = Picture(task, data, header, arrival, budget_ms, pinned, query.on_miss == "reject")
    outcome = await _run_while_connected(service.scheduler, picture, request)
    predictions = _predictions(outcome.scores, task, query.top_k)
    latency = _latency(outcome, budget_ms, arrival, received)
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


def server_timing(latency: Latency) -> str:
    """The phases as in the body, for browsers and proxies."""
    phases = ("receive", "queue", "decode", "inference", "total")
    return ", ".join(f"{name};dur={getattr(latency, f'{name}_ms')}" for name in phases)


def _target(service: Service, query: ClassifyQuery) -> tuple[TaskCatalog, LoadedVariant | None]:
    task = service.task(query.task)
    if query.variant is None:
        return task, None
    pinned = task.find(query.variant)
    if pinned is None:
        raise errors.UnknownVariant(query.variant, [v.id for v in task.variants])
    return task, pinned


def _budget_ms(service: Service, query: ClassifyQuery) -> float | None:
    if query.tier is None:
        return query.latency_budget_ms
    if query.latency_budget_ms is not None:
        raise errors.InvalidParameter("tier", "give latency_budget_ms or tier, not both")
    tiers = service.settings.tiers
    if query.tier not in tiers:
        known = ", ".join(tiers)
        raise errors.InvalidParameter(
            "tier", f"there is no tier {query.tier!r}; known: {known}", known=list(tiers)
        )
    return tiers[query.tier]


async def _run_while_connected(scheduler: Scheduler, picture: Picture, request: Request) -> Outcome:
    """Waits for the outcome; a client that leaves gives its place in the queue back."""
    work = asyncio.ensure_future(scheduler.run(picture))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise errors.MalformedRequest("the client left before the answer")
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _predictions(scores: Scores, task: TaskCatalog, top_k: int) -> list[Prediction]:
    best = np.argsort(-scores, kind="stable")[:top_k]
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


def _latency(outcome: Outcome, budget_ms: float | None, arrival: float, received: float) -> Latency:
    total_ms = now_ms() - arrival
    return Latency(
        budget_ms=budget_ms,
        predicted_ms=round(outcome.predicted_ms, 3),
        bound_ms=round(outcome.bound_ms, 3),
        total_ms=round(total_ms, 3),
        receive_ms=round(received - arrival, 3),
        queue_ms=round(outcome.queue_ms, 3),
        decode_ms=round(outcome.decode_ms, 3),
        inference_ms=round(outcome.inference_ms, 3),
        met=budget_ms is None or total_ms <= budget_ms,
    )
