"""`POST /v1/classify`."""

import numpy as np
from fastapi import APIRouter, Request, Response

from model_store.runtime import Scores
from service.catalog import TaskCatalog
from service.classification import Classification
from service.routes.dependencies import check_api_key, parse_query
from service.routes.direct import DirectRoute
from service.routes.inference import (
    account,
    read_asked,
    reference,
    respond,
    run_while_connected,
    takes_picture,
)
from service.schemas import ClassifyQuery, ClassifyResponse, Prediction
from service.state import Service

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
    task = service.task(query.task, "classification")
    asked = await read_asked(request, service, query, task)
    work = Classification(task, asked.data, asked.header, asked.pinned)
    outcome = await run_while_connected(service.scheduler, asked.submission(work), request)
    predictions = _predictions(outcome.result, task, query.top_k)
    latency = account(outcome, asked.budget_ms, asked.arrival, asked.received)
    answer = ClassifyResponse(
        task=task.manifest.name,
        variant=reference(outcome.variant),
        decision=outcome.decision,
        predictions=predictions,
        latency=latency,
    )
    return respond(service, outcome, answer, latency)


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
