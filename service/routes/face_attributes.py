"""`POST /v1/face-attributes`."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from model_store.faces import ATTRIBUTES, age_of, split_scores
from service import errors
from service.catalog import TaskCatalog
from service.classification import Classification
from service.face_analysis import FaceAnalysis, FacesFound
from service.outcomes import Outcome
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
from service.schemas import (
    AgeEstimate,
    Box,
    FaceAttributes,
    FaceAttributesQuery,
    FaceAttributesResponse,
    ImageSize,
    told,
)
from service.state import Service

router = APIRouter(route_class=DirectRoute)


@router.post(
    "/v1/face-attributes",
    response_model=FaceAttributesResponse,
    dependencies=API_KEY,
    responses=problems(*INFERENCE, errors.UnknownVariant),
    openapi_extra=takes_picture(FaceAttributesQuery),
    summary="The faces in this picture, their age and attributes, within the latency budget",
)
async def face_attributes(request: Request) -> Response:
    """Finds the faces, or takes the picture for one aligned face, and runs the most accurate detector and
    network that meet the budget under the present load. A picture without faces is answered with none."""
    service: Service = request.app.state.service
    check_api_key(request, service)
    query = parse_query(request, FaceAttributesQuery)
    task = service.faces()
    plans = service.face_plans() if query.faces == "detect" else None
    asked = await read_asked(request, service, query, task)
    outcome: Outcome[Any]
    if plans is None:
        cropped = Classification(task, asked.data, asked.header, asked.pinned)
        outcome = await run_while_connected(service.scheduler, asked.submission(cropped), request)
        found = FacesFound.cropped(*outcome.result)
    else:
        work = FaceAnalysis(plans, asked.data, asked.header, query.max_faces, asked.pinned)
        outcome = await run_while_connected(service.scheduler, asked.submission(work), request)
        found = outcome.result
    faces = _faces(found, task)
    latency = account(outcome, asked.budget_ms, asked.arrival, asked.received)
    answer = FaceAttributesResponse(
        task=task.manifest.name,
        variant=reference(outcome.variant),
        detector=None if found.detector is None else reference(found.detector),
        decision=told(outcome.decision, met=latency.met),
        image=ImageSize(width=found.size[0], height=found.size[1]),
        faces=faces,
        faces_found=found.found,
        limited_by=found.limited_by,
        latency=latency,
    )
    return respond(service, outcome, answer, latency)


def _faces(found: FacesFound, task: TaskCatalog) -> list[FaceAttributes]:
    returned = frozenset(task.manifest.returned or ATTRIBUTES)
    answers = []
    for face, scores in zip(found.faces, found.scores, strict=True):
        attributes, ages = (part[0] for part in split_scores(scores[np.newaxis]))
        age = age_of(ages)
        answers.append(
            FaceAttributes(
                box=Box(
                    x=round(face.x, 1), y=round(face.y, 1),
                    width=round(face.width, 1), height=round(face.height, 1),
                ),
                score=None if found.detector is None else round(face.score, 4),
                age=AgeEstimate(years=round(age.years, 1), low=round(age.low, 1), high=round(age.high, 1)),
                attributes={
                    name: round(float(probability), 4)
                    for name, probability in zip(ATTRIBUTES, attributes, strict=True)
                    if name in returned
                },
            )
        )  # fmt: skip
    return answers
