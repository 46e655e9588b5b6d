"""`POST /v1/classify`."""

import numpy as np
from fastapi import APIRouter, Request, Response

from model_store.runtime import Scores
from service import errors
from service.catalog import TaskCatalog
from service.classification import Classification
from service.routes.dependencies import check_api_key, parse_query
from service.routes.descriptions import API_KEY, INFERENCE, problems
from service.routes.direct import DirectRoute
from service.routes.inference import (
    account,
    read_asked,
    reference,
    respond,
    run_while_connected,
    takes_picture,
)
from service.schemas import ClassifyQuery, ClassifyResponse, Prediction, told
from service.state import Service

router = APIRouter(route_class=DirectRoute)


@router.post(
    "/v1/classify",
    response_model=ClassifyResponse,
    dependencies=API_KEY,
    responses=problems(*INFERENCE, errors.UnknownTask, errors.UnknownVariant),
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
    predictions = _predictions(outcome.result.scores, task, query.top_k)
    latency = account(outcome, asked.budget_ms, asked.arrival, asked.received)
    answer = ClassifyResponse(
        task=task.manifest.name,
        variant=reference(outcome.variant),
        decision=told(outcome.decision, met=latency.met),
        predictions=predictions,
        latency=latency,
    )
    return respond(service, outcome, answer, latency)


def _predictions(scores: Scores, task: TaskCatalog, top_k: int) -> list[Prediction]:
    return [
        Prediction(
            index=i,
            label=task.labels[i],
            synset=task.synsets[i] if task.synsets else None,
            score=round(float(scores[i]), 6),
        )
        for i in _best(scores, top_k)
    ]


def _best(scores: Scores, count: int) -> list[int]:
    """The classes that score highest, the first of them first; of equals, those of lower index.

    Each function of numpy over so many numbers lets other threads take the interpreter meanwhile, and the
    event loop waits until it has it again: one is called, but for ties at the end of the list.
    """
    if count == 1:
        return [int(scores.argmax())]  # of equals the first
    if count >= len(scores):
        return np.argsort(-scores, kind="stable").tolist()  # type: ignore[no-any-return]
    order = scores.argpartition(-count - 1)[-count - 1 :].tolist()
    values = {i: float(scores[i]) for i in order}
    if values[order[0]] == min(values[i] for i in order[1:]):  # the best one that is left out
        candidates = np.flatnonzero(scores >= values[order[0]])
        return candidates[np.argsort(-scores[candidates], kind="stable")][:count].tolist()  # type: ignore[no-any-return]
    return sorted(order[1:], key=lambda i: (-values[i], i))
