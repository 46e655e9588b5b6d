"""The service, put together. The one page to read first.

A request's way: `RequestContext` stamps its arrival, `ShortWay` finds its route, the `Turnstile` lets it in,
the route reads the body within the limits, one `Job` enters the scheduler's deadline queue, a worker picks
the variant by the time that is left, decodes straight to its size and runs it, and the route answers.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import errors
from service.middleware import RequestContext
from service.raw_runs import RawRuns
from service.responses import on_http_exception, on_invalid_parameters, on_problem
from service.routes import catalog, classify, demo, face_attributes, health, metrics, open_inference
from service.routes.descriptions import DescribedApp, problems
from service.routes.direct import ShortWay
from service.settings import Settings
from service.state import Service

log = logging.getLogger(__name__)

_DESCRIPTION = "What is in this picture, within the time you have."


def create_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """The only constructor: no work at import, nothing global. Loading begins with the lifespan, unless
    `service` has been started."""
    service = service or Service(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # A thread that computes in Python gives the interpreter to the loop sooner than after 5 ms.
        sys.setswitchinterval(0.0005)
        # Loading takes seconds; meanwhile /livez and /readyz answer.
        starting = None
        if service.phase == "starting":
            starting = asyncio.create_task(asyncio.to_thread(service.start))
        try:
            yield
        finally:
            service.phase = "draining"
            if starting is not None:
                with contextlib.suppress(Exception):  # logged where it happened
                    await starting
            await asyncio.to_thread(service.stop)

    app = DescribedApp(
        title="MobileNet service",
        description=_DESCRIPTION,
        version="1",
        lifespan=lifespan,
        redoc_url=None,
        responses=problems(errors.Internal),
    )
    app.state.service = service
    app.state.raw_runs = RawRuns()
    app.add_middleware(ShortWay, routes=[*classify.router.routes, *face_attributes.router.routes])
    app.add_middleware(RequestContext, draining=lambda: service.phase == "draining")
    app.add_exception_handler(errors.Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_invalid_parameters)
    for module in (classify, face_attributes, catalog, health, metrics, open_inference, demo):
        app.include_router(module.router)
    return app
