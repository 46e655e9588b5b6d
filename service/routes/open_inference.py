"""`/v2/...`: the Open Inference Protocol (KServe V2, REST), for clients that speak it already.

A model is a task, and then the latency budget chooses the variant, or a variant by its id.
"""

from collections.abc import Callable, Coroutine
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from service import errors
from service.catalog import LoadedVariant, TaskCatalog
from service.classification import Classification, Classified
from service.clock import now_ms
from service.open_inference import (
    VERSION,
    InferResponse,
    ModelMetadata,
    ModelReady,
    ServerMetadata,
    check_shape,
    encoded_picture,
    model_metadata,
    output_tensor,
    parse,
    response_parameters,
)
from service.outcomes import Outcome, Submission
from service.raw_runs import RawOutcome, RawRuns
from service.routes.dependencies import GUARDS, ServiceDep
from service.routes.descriptions import GUARDED, INFERENCE, protocol_errors
from service.routes.inference import account, resolve_budget_ms, run_while_connected, server_timing
from service.schemas import told
from service.state import IMAGENET, Service
from service.uploads import check_picture, read_body

_NAME = "mobilenet-service"


class _ProtocolRoute(APIRoute):
    """Tells problems in the protocol's own form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_protocol(request: Request) -> Response:
            try:
                return await handle(request)
            except errors.Problem as problem:
                return JSONResponse({"error": problem.detail}, problem.status, problem.headers)

        return handle_protocol


_EXAMPLE = {
    "parameters": {"latency_budget_ms": 50},
    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["<base64 of a picture>"]}],
}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "object"}, "example": _EXAMPLE}},
}

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], route_class=_ProtocolRoute)


async def _raw_runs(request: Request) -> RawRuns:
    raw_runs: RawRuns = request.app.state.raw_runs
    return raw_runs


async def _check_version(request: Request) -> None:
    given = request.path_params.get("version", VERSION)
    if given != VERSION:
        raise errors.NotFound(f"there is no version {given!r}; every model has version {VERSION}")


_MODEL = [*GUARDS, Depends(_check_version)]
_NO_MODEL = protocol_errors(*GUARDED, errors.NotFound)
_READY = dict[str, bool]


@router.get("", response_model=ServerMetadata)
async def server_metadata() -> ServerMetadata:
    """No extensions: tensors are JSON, the binary form is not served."""
    return ServerMetadata(name=_NAME, version=version(_NAME), extensions=[])


@router.get("/health/live")
async def live() -> dict[str, bool]:
    return {"live": True}


@router.get(
    "/health/ready",
    response_model=_READY,
    responses={503: {"description": errors.NotReady.title, "model": _READY}},
)
async def ready(service: ServiceDep) -> JSONResponse:
    is_ready = service.phase == "ready"
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


@router.get("/models/{name}/versions/{version}", dependencies=_MODEL, include_in_schema=False)
@router.get(
    "/models/{name}",
    response_model=ModelMetadata,
    dependencies=_MODEL,
    responses=_NO_MODEL | protocol_errors(errors.NotReady),
)
async def metadata(name: str, service: ServiceDep) -> Response:
    """What the model takes and gives. A variant also takes encoded pictures, as its task does."""
    task, variant = _model(service, name)
    resolution = variant.manifest.resolution if variant else None
    return _json(model_metadata(name, len(task.labels), resolution))


@router.get("/models/{name}/versions/{version}/ready", dependencies=_MODEL, include_in_schema=False)
@router.get(
    "/models/{name}/ready",
    response_model=ModelReady,
    dependencies=_MODEL,
    responses=_NO_MODEL | {503: {"description": errors.NotReady.title, "model": ModelReady}},
)
async def model_ready(name: str, service: ServiceDep) -> Response:
    """503 while the service starts or drains, and for a variant of the store that cannot serve."""
    try:
        service.check_ready()
        _model(service, name)
    except errors.NotReady as problem:
        return _json(ModelReady(name=name, ready=False), problem.status, problem.headers)
    return _json(ModelReady(name=name, ready=True))


@router.post("/models/{name}/versions/{version}/infer", dependencies=_MODEL, include_in_schema=False)
@router.post(
    "/models/{name}/infer",
    response_model=InferResponse,
    dependencies=_MODEL,
    responses=protocol_errors(*INFERENCE, errors.NotFound),
    openapi_extra={"requestBody": _BODY},
)
async def infer(
    name: str, request: Request, service: ServiceDep, raw_runs: Annotated[RawRuns, Depends(_raw_runs)]
) -> Response:
    """Scores of one encoded picture (BYTES), or of up to 8 pictures as a variant sees them (UINT8)."""
    arrival: float = request.state.arrival
    task, variant = _model(service, name)
    if "inference-header-content-length" in request.headers:
        raise errors.UnsupportedMediaType("the binary tensor extension is not served; send tensors as JSON")
    asked = parse(await read_body(request, service.max_body_bytes))
    wishes, tensor = asked.parameters, asked.inputs[0]
    budget_ms = resolve_budget_ms(service.settings.tiers, wishes.latency_budget_ms, wishes.tier)
    reject_late = wishes.on_miss == "reject"
    await service.scheduler.let_in(arrival, budget_ms, reject_late=reject_late)
    outcome: Outcome[Classified] | RawOutcome
    if tensor.datatype == "BYTES":
        data = encoded_picture(tensor)
        header = check_picture(data, service.settings.max_pixels, service.max_pixels_in_full)
        received = now_ms()
        submission = Submission(Classification(task, data, header, variant), arrival, budget_ms, reject_late)
        outcome = await run_while_connected(service.scheduler, submission, request)
        scores = outcome.result.scores
    elif variant is None:
        raise errors.InvalidParameter(
            "image", f"{name!r} takes BYTES, as each variant has its size; for UINT8 name a variant"
        )
    else:
        check_shape(tensor, variant.manifest.resolution)
        received = now_ms()
        limit_ms = budget_ms if reject_late else None
        outcome = await raw_runs.run(service.scheduler, variant, tensor, arrival, limit_ms)
        scores = outcome.scores
    latency = account(outcome, budget_ms, arrival, received)
    answer = InferResponse(
        model_name=name,
        model_version=VERSION,
        id=asked.id,
        parameters=response_parameters(outcome.variant.id, told(outcome.decision, met=latency.met), latency),
        outputs=[output_tensor(scores.reshape(-1, len(task.labels)))],
    )
    response = _json(answer, headers={"Server-Timing": server_timing(latency)})
    if isinstance(outcome, Outcome):
        service.scheduler.answered(outcome)
    return response


def _model(service: Service, name: str) -> tuple[TaskCatalog, LoadedVariant | None]:
    """The task of this name, or the variant of this id with its task. Raises NotFound or NotReady."""
    catalog = service.catalog
    if name in catalog.tasks:
        return service.task(name), None
    # An id that several tasks have means ImageNet's.
    tasks = sorted(catalog.tasks, key=lambda task: (task != IMAGENET, task))
    for task in (catalog.tasks[t] for t in tasks):
        if variant := task.find(name):
            return task, variant
    if any(refused.id == name for refused in catalog.refused):
        raise errors.NotReady(f"the variant {name!r} cannot serve; GET /v1/variants says why")
    if service.phase == "failed":
        service.check_ready()  # nothing is known of models then
    known = ", ".join([*tasks, *sorted({v.id for v in catalog.variants()})])
    raise errors.NotFound(f"there is no model {name!r}; known: {known or 'none'}")


def _json(
    answer: InferResponse | ModelMetadata | ModelReady,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    body = answer.model_dump_json(exclude_none=True)
    return Response(body, status, headers=headers, media_type="application/json")
