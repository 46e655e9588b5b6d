"""`GET /`: one self-contained page that its own policy lets run, and nothing else."""

import base64
import hashlib
import re

import httpx
import pytest


@pytest.fixture
def page(client: httpx.Client) -> httpx.Response:
    return client.get("/")


def _policy(page: httpx.Response) -> dict[str, list[str]]:
    directives = page.headers["content-security-policy"].split("; ")
    return {name: sources for name, *sources in (d.split() for d in directives)}


def test_the_page_is_html_that_caches_ask_for_again(page: httpx.Response) -> None:
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["permissions-policy"] == "camera=(self)"


@pytest.mark.parametrize("tag", ["script", "style"])
def test_the_policy_allows_the_inline_elements_by_their_hash_alone(tag: str, page: httpx.Response) -> None:
    (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert _policy(page)[f"{tag}-src"] == [f"'sha256-{digest}'"]


def test_the_policy_allows_nothing_else(page: httpx.Response) -> None:
    policy = _policy(page)
    assert policy["default-src"] == ["'none'"]
    assert policy["connect-src"] == ["'self'"]
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    # What the policy would block, so that the page would quietly lack it.
    assert not re.search(r"<[^>]+\s(style|on\w+)=", page.text)


def test_the_page_loads_nothing_and_works_without_the_network(page: httpx.Response) -> None:
    assert not re.search(r"https?://", page.text)
    assert not re.search(r"@import|url\(|<(link(?! rel=\"icon\" href=\"data:,\")|iframe|object)", page.text)


def test_text_of_the_server_is_never_taken_for_markup(page: httpx.Response) -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", page.text
    )


def test_every_address_that_the_page_asks_is_served(page: httpx.Response, client: httpx.Client) -> None:
    known = client.get("/openapi.json").json()["paths"]
    asked = set(re.findall(r"/v\d+/[a-z-]+", page.text))
    assert asked == {"/v1/classify", "/v1/face-attributes", "/v1/variants", "/v1/tiers"}
    assert asked <= set(known)
    assert "/" not in known


def test_what_the_page_asks_where_nothing_finds_faces_is_served(
    page: httpx.Response, client: httpx.Client
) -> None:
    parameters = client.get("/openapi.json").json()["paths"]["/v1/face-attributes"]["post"]["parameters"]
    (faces,) = (p["schema"]["enum"] for p in parameters if p["name"] == "faces")
    (asked,) = re.findall(r"\bfaces: '(\w+)'", page.text)
    assert asked in faces


def test_every_field_has_a_label_and_results_are_announced(page: httpx.Response) -> None:
    for name in ("slider", "key"):
        assert f'<label for="{name}">' in page.text
    assert re.search(r"<label [^>]*>[^<]+<input id=\"file\"", page.text)
    assert 'aria-live="polite"' in page.text
    assert 'id="error" role="alert"' in page.text
    assert '<html lang="en">' in page.text


def test_ids_that_the_script_uses_are_there_once(page: httpx.Response) -> None:
    declared = re.findall(r'\bid="([a-z-]+)"', page.text)
    assert len(declared) == len(set(declared))
    assert set(re.findall(r"\$\('([a-z-]+)'\)", page.text)) <= set(declared)


def test_every_decision_is_explained(page: httpx.Response, client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["ClassifyResponse"]
    (explained,) = re.findall(r"function reason.*?\n}", page.text, re.DOTALL)
    for decision in schema["properties"]["decision"]["enum"]:
        # The page pins nothing.
        assert f"{decision}: " in explained or decision == "pinned"
