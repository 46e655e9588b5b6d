"""`POST /v1/classify`."""

import numpy as np
from fastapi import APIRouter, Request, Response

from model_store.runtime import Scores
from service.catalog import TaskCatalog
from service.classification import Classification
from service.clock import now_ms
from service.routes.dependencies import check_api_key, parse_query
from service.routes.direct import DirectRoute
from service.routes.inference import (
    account,
    find_pinned,
    reference,
    resolve_budget_ms,
    run_while_connected,
    server_timing,
    takes_picture,
)
from service.scheduler import Submission
from service.schemas import (
    ClassifyQuery,
    ClassifyResponse,
    Prediction,
)
from service.state import Service
from service.uploads import check_picture, read_picture

router = APIRouter(route_class=DirectRoute)


@router.post(
    "/v1/classify",
    response_model=ClassifyResponse,
    openapi_extra=takes_picture(ClassifyQuery),
    summary="What is in this picture, within the latency budget",
)
async def classify(request: Request) -> Response:
    """Runs the most accurate variant that meets the budget under the present load."""
    service: Service = request.app.state.service
    check_api_key(request, service)
    query = parse_query(request, ClassifyQuery)
    arrival: float = request.state.arrival
    task = service.task(query.task, "classification")
    pinned = find_pinned(task, query.variant)
    settings = service.settings
    budget_ms = resolve_budget_ms(settings.tiers, query.latency_budget_ms, query.tier)
    data = await read_picture(request, settings.max_body_bytes)
    header = check_picture(data, settings.max_pixels)
    received = now_ms()
    work = Classification(task, data, header, pinned)
    submission = Submission(work, arrival, budget_ms, query.on_miss == "reject")
    outcome = await run_while_connected(service.scheduler, submission, request)
    predictions = _predictions(outcome.result, task, query.top_k)
    latency = account(outcome, budget_ms, arrival, received)
    answer = ClassifyResponse(
        task=task.manifest.name,
        variant=reference(outcome.variant),
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
