"""How answers are written: JSON, and problems."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import errors

PROBLEM_MEDIA_TYPE = "application/problem+json"


def problem_response(problem: errors.Problem, request_id: str) -> Response:
    return Response(
        json.dumps(problem.body(request_id)),
        status_code=problem.status,
        headers=problem.headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


async def on_problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, errors.Problem)  # noqa: S101  (registered for this class only)
    return problem_response(problem, request.state.request_id)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """The router's own: unknown addresses and methods."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    path = request.scope["path"]
    problem: errors.Problem
    if status == 405:
        headers = error.headers if isinstance(error, HTTPException) else None
        problem = errors.MethodNotAllowed(f"{path} does not take {request.method}", headers=headers)
    elif status == 400:
        problem = errors.MalformedRequest("the request cannot be parsed")
    else:
        problem = errors.NotFound(f"there is nothing at {path}; GET /docs lists what there is")
    return problem_response(problem, request.state.request_id)


async def on_invalid_parameters(request: Request, error: Exception) -> Response:
    """What the schema of a route refuses; the first one is reported."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for this class only)
    problem = invalid_parameter(error.errors()[0], request.url.path)
    return problem_response(problem, request.state.request_id)


def invalid_parameter(error: Mapping[str, Any], path: str) -> errors.InvalidParameter:
    """The problem of one of pydantic's errors."""
    name = str(error["loc"][-1])
    if error["type"] == "extra_forbidden":
        detail = f"there is no parameter {name!r}; GET /docs lists those of {path}"
    else:
        detail = f"{name}: {error['msg']}; given: {str(error.get('input'))[:100]!r}"
    return errors.InvalidParameter(name, detail)
