"""`GET /metrics`, for Prometheus."""

from fastapi import APIRouter, Response

from service.routes.dependencies import ServiceDep

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
async def metrics(service: ServiceDep) -> Response:
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
