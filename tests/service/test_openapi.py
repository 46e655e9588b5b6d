"""That `/openapi.json` says of refusals what requests that fail really get."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.server import running_server
from service import errors
from service.app import create_app
from service.routes.descriptions import ProblemDocument, problems
from service.settings import Settings
from tests.service.test_bad_requests import CASES
from tests.service.test_open_inference import BAD

Document = dict[str, Any]
KEY = "s3cret"
INFER = "/v2/models/{name}/infer"
OF_NO_OPERATION = ("unknown path", "GET /v1/classify?")


@pytest.fixture
def document(client: httpx.Client) -> Document:
    found: Document = client.get("/openapi.json").json()
    return found


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def check_declared(answer: httpx.Response, operation: Document) -> None:
    """The status with its media type, and a body as the schema has it."""
    response = operation["responses"].get(str(answer.status_code))
    assert response is not None, f"{answer.status_code} is not declared: {answer.text}"
    assert list(response["content"]) == [answer.headers["content-type"]]
    (content,) = response["content"].values()
    if answer.headers["content-type"] == "application/problem+json":
        problem = answer.json()
        ProblemDocument.model_validate(problem)
        assert set(problem) <= set(ProblemDocument.model_fields)
        assert f"`{problem['type'].removeprefix(errors.TYPE_PREFIX)}`" in response["description"]
        assert content["schema"]["$ref"].endswith("/ProblemDocument")
    elif "error" in answer.json():
        assert content["schema"]["$ref"].endswith("/ProtocolError")


def test_each_bad_request_is_refused_as_declared(client: httpx.Client, document: Document) -> None:
    cases = [case for case in CASES if not case.name.startswith(OF_NO_OPERATION)]
    assert len(cases) >= 40
    for case in cases:
        posts = case.method == "POST"
        answer = client.request(
            case.method,
            f"{case.path}?{case.query}",
            content=case.body if posts else None,
            headers=case.headers if posts else None,
        )
        assert answer.status_code == case.status, case.name
        check_declared(answer, document["paths"][case.path][case.method.lower()])


def test_so_is_each_of_the_protocol(client: httpx.Client, document: Document) -> None:
    operation = document["paths"][INFER]["post"]
    for name, model, body, status, _ in BAD:
        answer = client.post(INFER.format(name=model), json=body)
        assert answer.status_code == status, name
        check_declared(answer, operation)
    check_declared(client.post(INFER.format(name="imagenet"), content=b"{"), operation)


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/v1/variants", "task=%ff", 400),
        ("/v1/variants", "task=imagenet&task=imagenet", 422),
        ("/v1/tiers", "task=dogs", 404),
        ("/v2/models/{name}", "x=%ff", 400),
        ("/v2/models/{name}", "x=1&x=2", 422),
        ("/v2/models/{name}/ready", "x=1&x=2", 422),
    ],
)
def test_so_is_a_bad_query_of_what_only_tells(
    path: str, query: str, status: int, client: httpx.Client, document: Document
) -> None:
    answer = client.get(f"{path.format(name='imagenet')}?{query}")
    assert answer.status_code == status
    check_declared(answer, document["paths"][path]["get"])


def test_so_is_an_unknown_model(client: httpx.Client, document: Document) -> None:
    for path in ("/v2/models/{name}", "/v2/models/{name}/ready"):
        answer = client.get(path.format(name="dogs"))
        assert answer.status_code == 404
        check_declared(answer, document["paths"][path]["get"])


def test_what_cannot_be_answered_while_starting_says_so_as_declared(tmp_path: Path) -> None:
    app = create_app(Settings(store=tmp_path / "store", state_dir=tmp_path / "state"))

    async def ask_all() -> dict[str, int]:
        # Nothing runs the lifespan, so that the service stays as it is before it has loaded anything.
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            document = (await client.get("/openapi.json")).json()
            statuses = {}
            for method, path, operation in operations(document):
                answer = await client.request(method, path.format(name="imagenet"))
                check_declared(answer, operation)
                statuses[path] = answer.status_code
            return statuses

    statuses = asyncio.run(ask_all())
    at_once = {"/livez", "/v2", "/v2/health/live"}
    assert {path for path, status in statuses.items() if status == 200} == at_once
    assert {status for path, status in statuses.items() if path not in at_once} == {503}


def test_the_key_is_asked_for_where_declared_and_taken_in_each_declared_way(
    store_dir: Path, state_dir: Path
) -> None:
    with (
        running_server(store_dir, state_dir, api_key=KEY) as server,
        httpx.Client(base_url=server.base_url, timeout=30) as client,
    ):
        document = client.get("/openapi.json").json()
        schemes = document["components"]["securitySchemes"]
        ways = [_header(scheme) for scheme in schemes.values()]
        assert sorted(name for name, _ in ways) == ["Authorization", "X-API-Key"]
        for method, path, operation in operations(document):
            url = path.format(name="imagenet")
            answer = client.request(method, url)
            check_declared(answer, operation)
            assert (answer.status_code == 401) == ("security" in operation), path
            if "security" in operation:
                assert operation["security"] == [{name: []} for name in schemes]  # either one
                for name, value in ways:
                    assert client.request(method, url, headers={name: value}).status_code != 401
                    assert client.request(method, url, headers={name: f"{value}x"}).status_code == 401


def _header(scheme: Document) -> tuple[str, str]:
    if scheme["type"] == "http":
        return "Authorization", f"{scheme['scheme'].capitalize()} {KEY}"
    assert scheme["in"] == "header"
    return scheme["name"], KEY


def test_every_kind_of_problem_is_declared_where_it_occurs(document: Document) -> None:
    told = " ".join(
        response["description"] for _, _, o in operations(document) for response in o["responses"].values()
    )
    # Of no path that there is, and of no method that it takes.
    the_routers_own = {errors.NotFound, errors.MethodNotAllowed}
    for kind in set(errors.Problem.__subclasses__()) - the_routers_own:
        assert f"`{kind.code}`" in told
    classify = document["paths"]["/v1/classify"]["post"]["responses"]
    assert {"400", "401", "404", "413", "415", "422", "429", "500", "503", "504"} <= set(classify)


def test_problems_of_one_status_share_an_entry() -> None:
    found = problems(errors.TooManyPixels, errors.MalformedRequest, errors.BodyTooLarge)
    assert list(found) == [400, 413]
    assert found[413]["description"] == (
        "`too-many-pixels`: The picture has too many pixels; "
        "`body-too-large`: The request body is too large"
    )  # fmt: skip


def test_every_schema_that_is_referred_to_is_there_and_none_is_fastapis_own(document: Document) -> None:
    text = json.dumps(document)
    assert "ValidationError" not in text
    schemas = document["components"]["schemas"]
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in schemas
