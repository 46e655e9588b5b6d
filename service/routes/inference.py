"""What every way to ask for an inference shares: the budget, the wait, and the account of the time."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Request, Response
from pydantic import BaseModel

from model_store.imaging import ImageHeader
from service import errors
from service.catalog import LoadedDetector, LoadedVariant, TaskCatalog
from service.clock import now_ms
from service.middleware import CONNECTION_LOST
from service.outcomes import Outcome, Result, Submission
from service.routes.dependencies import query_parameters
from service.scheduler import Scheduler
from service.schemas import BudgetQuery, Latency, VariantRef
from service.state import Service
from service.uploads import check_picture, read_picture
from service.work import Work


class Timed(Protocol):
    """What an outcome tells of its time, in ms; see `Outcome`."""

    @property
    def predicted_ms(self) -> float: ...
    @property
    def bound_ms(self) -> float: ...
    @property
    def queue_ms(self) -> float: ...
    @property
    def decode_ms(self) -> float: ...
    @property
    def inference_ms(self) -> float: ...
    @property
    def threads(self) -> int: ...


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


def takes_picture(query: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a route that takes a picture, and the parameters of `query`."""
    return {"requestBody": _BODY, "parameters": query_parameters(query)}


def find_pinned(task: TaskCatalog, variant: str | None) -> LoadedVariant | None:
    """The variant that the client asks for; None where it asks for none. Raises UnknownVariant."""
    if variant is None:
        return None
    pinned = task.find(variant)
    if pinned is None:
        raise errors.UnknownVariant(variant, [v.id for v in task.variants])
    return pinned


def reference(variant: LoadedVariant | LoadedDetector) -> VariantRef:
    m = variant.manifest
    return VariantRef(id=m.id, alpha=m.alpha, resolution=m.resolution, precision=m.precision)


def resolve_budget_ms(
    tiers: Mapping[str, float], latency_budget_ms: float | None, tier: str | None
) -> float | None:
    """The budget that was given, as a number or by its name; None without one."""
    if tier is None:
        return latency_budget_ms
    if latency_budget_ms is not None:
        raise errors.InvalidParameter("tier", "give latency_budget_ms or tier, not both")
    if tier not in tiers:
        known = ", ".join(tiers)
        raise errors.InvalidParameter("tier", f"there is no tier {tier!r}; known: {known}", known=list(tiers))
    return tiers[tier]


@dataclass(slots=True, eq=False)
class Asked:
    """What a request asks of a task: the picture is there and can be read. Times are of `now_ms`."""

    data: bytes
    header: ImageHeader
    pinned: LoadedVariant | None
    budget_ms: float | None
    reject_late: bool
    arrival: float
    received: float

    def submission(self, work: Work[Result]) -> Submission[Result]:
        return Submission(work, self.arrival, self.budget_ms, self.reject_late)


async def read_asked(request: Request, service: Service, query: BudgetQuery, task: TaskCatalog) -> Asked:
    """Reads the body. Raises a Problem for what cannot be asked, before it is read where that can be told."""
    pinned = find_pinned(task, query.variant)
    budget_ms = resolve_budget_ms(service.settings.tiers, query.latency_budget_ms, query.tier)
    arrival, reject_late = request.state.arrival, query.on_miss == "reject"
    await service.scheduler.let_in(arrival, budget_ms, reject_late=reject_late)
    data = await read_picture(request, service.max_body_bytes)
    header = check_picture(data, service.settings.max_pixels, service.max_pixels_in_full)
    return Asked(data, header, pinned, budget_ms, reject_late, arrival, now_ms())


async def run_while_connected(
    scheduler: Scheduler, submission: Submission[Result], request: Request
) -> Outcome[Result]:
    """Waits for the outcome; a client that leaves gives its place in the queue back."""
    serving = asyncio.current_task()
    assert serving is not None  # noqa: S101  (a route runs in a task)
    left = answered = False

    def leave(_: object) -> None:
        nonlocal left
        if not answered:  # it may be on its way already when the outcome comes
            left = True
            serving.cancel()

    lost = request.scope.get("extensions", {}).get(CONNECTION_LOST)
    watching = lost or asyncio.ensure_future(_disconnect(request))
    watching.add_done_callback(leave)
    try:
        return await scheduler.run(submission)
    except asyncio.CancelledError:
        if not left:
            raise
        serving.uncancel()
        raise errors.MalformedRequest("the client left before the answer") from None
    finally:
        answered = True
        watching.remove_done_callback(leave)
        if watching is not lost:
            watching.cancel()


async def _disconnect(request: Request) -> None:
    """As any ASGI server tells it, for a task more a request."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def account(outcome: Timed, budget_ms: float | None, arrival: float, received: float) -> Latency:
    """Where the time went until now. `arrival` and `received` are of `now_ms`."""
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
        threads=outcome.threads,
        met=budget_ms is None or total_ms <= budget_ms,
    )


def respond(service: Service, outcome: Outcome[Any], answer: BaseModel, latency: Latency) -> Response:
    """The answer as JSON, serialised once; counts it."""
    content = answer.model_dump_json()
    service.scheduler.answered(outcome)
    return Response(content, media_type="application/json", headers={"Server-Timing": server_timing(latency)})


def server_timing(latency: Latency) -> str:
    """The phases as in the body, for browsers and proxies."""
    return (
        f"receive;dur={latency.receive_ms}, queue;dur={latency.queue_ms}, decode;dur={latency.decode_ms}, "
        f"inference;dur={latency.inference_ms}, total;dur={latency.total_ms}"
    )
