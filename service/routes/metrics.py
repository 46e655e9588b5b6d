"""`GET /metrics`, for Prometheus."""

import asyncio

from fastapi import APIRouter, Response

from service.routes.dependencies import ServiceDep

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
async def metrics(service: ServiceDep) -> Response:
    # Sensors are files of the kernel, some of which take their time to be read.
    text = await asyncio.to_thread(service.metrics.text)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
