"""`GET /livez` and `GET /readyz`, for orchestrators: no key, no body to parse."""

from fastapi import APIRouter

from service import errors
from service.routes.dependencies import ServiceDep
from service.routes.descriptions import problems
from service.schemas import Status

router = APIRouter()


@router.get("/livez", response_model=Status)
async def livez() -> Status:
    """200 as long as the process answers."""
    return Status(status="alive")


@router.get("/readyz", response_model=Status, responses=problems(errors.NotReady))
async def readyz(service: ServiceDep) -> Status:
    """200 when every sound variant is loaded, measured and warm, as far as memory holds them; 503 while
    starting or draining."""
    service.check_ready()
    return Status(status="ready")
