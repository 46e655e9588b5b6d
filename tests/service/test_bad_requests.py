"""Every kind of bad request gets its status, its code and a useful message; the service goes on."""

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from tests.service import pictures

_JPEG = {"Content-Type": "image/jpeg"}


@dataclass(frozen=True)
class Case:
    """A request to `POST /v1/classify` unless told otherwise, and what must come back."""

    name: str
    status: int
    code: str
    says: str
    body: bytes = b""
    query: str = ""
    headers: dict[str, str] = field(default_factory=lambda: dict(_JPEG))
    method: str = "POST"
    path: str = "/v1/classify"


def _multipart(
    *parts: bytes, boundary: str = "xyz", end: bytes = b"--xyz--\r\n"
) -> tuple[bytes, dict[str, str]]:
    body = b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + end
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def _part(name: str, content: bytes, filename: str | None = "cat.jpg") -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return f"Content-Disposition: {disposition}\r\nContent-Type: image/jpeg\r\n\r\n".encode() + content


def _form(name: str, status: int, code: str, says: str, request: tuple[bytes, dict[str, str]]) -> Case:
    return Case(name, status, code, says, body=request[0], headers=request[1])


def _unreadable(name: str, body: bytes) -> Case:
    return Case(name, 422, "unreadable-image", "", body=body)


def _too_many(name: str, body: bytes) -> Case:
    return Case(name, 413, "too-many-pixels", "the limit is 50000000", body=body)


GOOD = pictures.encode("JPEG")
TYPES = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

BODIES = [
    Case("empty body", 422, "unreadable-image", "empty"),
    Case("one byte", 415, "unsupported-media-type", "another type", body=b"\xff"),
    Case("text named .jpg", 415, "unsupported-media-type", "JPEG", body=b"I am a text file.\n" * 20),
    Case("HTML", 415, "unsupported-media-type", "another type", body=b"<!doctype html><html></html>"),
    Case("PDF", 415, "unsupported-media-type", "another type", body=b"%PDF-1.7\n" + b"0" * 200),
    Case("TIFF", 415, "unsupported-media-type", "another type", body=pictures.encode("TIFF")),
    Case("zeros", 415, "unsupported-media-type", "another type", body=bytes(5000)),
    Case("1 x 1 pixel", 422, "unreadable-image", "1 x 1", body=pictures.encode("PNG", 1, 1)),
    _too_many("65,000 x 65,000 PNG", pictures.png_header(65000, 65000)),
    _too_many("65,000 x 65,000 JPEG", pictures.jpeg_of(65000, 65000)),
    _too_many("65,000 x 65,000 BMP", pictures.bmp_header(65000, 65000)),
    _too_many("65,000 x 65,000 GIF", pictures.gif_of(65000, 65000)),
    _too_many("decompression bomb", pictures.png_bomb(30000)),
    Case("body over the limit", 413, "body-too-large", "2000000 bytes", body=GOOD + bytes(2_000_000)),
    *[_unreadable(f"truncated {t}", pictures.truncated(t)) for t in TYPES],
    *[_unreadable(f"damaged {t}", pictures.damaged(t)) for t in ("JPEG", "PNG", "WEBP")],
    Case("JPEG signature only", 422, "unreadable-image", "JPEG", body=b"\xff\xd8\xff\xe0"),
    Case("PNG signature only", 422, "unreadable-image", "PNG", body=b"\x89PNG\r\n\x1a\n"),
    Case("GIF signature only", 422, "unreadable-image", "GIF", body=b"GIF89a"),
    Case("BMP signature only", 422, "unreadable-image", "BMP", body=b"BM"),
    Case("RIFF without frames", 422, "unreadable-image", "WEBP", body=b"RIFF\x04\0\0\0WEBP"),
]  # fmt: skip

CONTENT_TYPES = [
    Case(
        f"content type {kind}", 415, "unsupported-media-type", kind, body=GOOD, headers={"Content-Type": kind}
    )
    for kind in ("text/plain", "application/json", "application/pdf", "video/mp4", "multipart/mixed")
]

MULTIPART = [
    _form("no boundary", 400, "malformed-request", "boundary",
          (GOOD, {"Content-Type": "multipart/form-data"})),
    _form("wrong boundary", 400, "malformed-request", "multipart",
          _multipart(_part("image", GOOD), boundary="abc")),
    _form("never closed", 400, "malformed-request", "multipart", _multipart(_part("image", GOOD), end=b"")),
    _form("not multipart at all", 400, "malformed-request", "multipart",
          (GOOD, {"Content-Type": "multipart/form-data; boundary=xyz"})),
    _form("part of another name", 422, "invalid-parameter", "'file'", _multipart(_part("file", GOOD))),
    _form("two images", 422, "invalid-parameter", "'image', 'image'",
          _multipart(_part("image", GOOD), _part("image", GOOD))),
    _form("text without a file's name", 415, "unsupported-media-type", "another type",
          _multipart(_part("image", b"cat", filename=None))),
    _form("cut off behind two hyphens", 400, "malformed-request", "closing boundary",
          _multipart(_part("image", GOOD + b"--"), end=b"")),
    _form("empty file", 422, "unreadable-image", "empty", _multipart(_part("image", b""))),
    _form("text in the part", 415, "unsupported-media-type", "another type",
          _multipart(_part("image", b"text"))),
    _form("no parts", 422, "invalid-parameter", "none", _multipart()),
    *(_form(f"encoding {name}", 400, "malformed-request", "encoding",
            (_multipart(_part("image", GOOD))[0],
             {"Content-Type": f"multipart/form-data; boundary=xyz; charset={name}"}))
      for name in ("undefined", "punycode")),
    _form("empty body", 400, "malformed-request", "multipart",
          (b"", {"Content-Type": "multipart/form-data; boundary=xyz"})),
]  # fmt: skip

PARAMETERS = [
    Case(query, status, code, says, body=GOOD, query=query)
    for query, status, code, says in (
        ("latency_budget_ms=fast", 422, "invalid-parameter", "latency_budget_ms"),
        ("latency_budget_ms=", 422, "invalid-parameter", "latency_budget_ms"),
        ("latency_budget_ms=0", 422, "invalid-parameter", "greater than 0"),
        ("latency_budget_ms=-5", 422, "invalid-parameter", "greater than 0"),
        ("latency_budget_ms=nan", 422, "invalid-parameter", "latency_budget_ms"),
        ("latency_budget_ms=inf", 422, "invalid-parameter", "latency_budget_ms"),
        ("latency_budget_ms=1e9", 422, "invalid-parameter", "600000"),
        ("tier=warp", 422, "invalid-parameter", "realtime"),
        ("tier=", 422, "invalid-parameter", "realtime"),
        ("tier=realtime&latency_budget_ms=20", 422, "invalid-parameter", "not both"),
        ("tier=realtime&tier=relaxed", 422, "invalid-parameter", "2 times"),
        ("&".join(f"p{i}" for i in range(9000)), 422, "invalid-parameter", "no parameter"),
        ("top_k=0", 422, "invalid-parameter", "top_k"),
        ("top_k=1001", 422, "invalid-parameter", "1000"),
        ("top_k=2.5", 422, "invalid-parameter", "top_k"),
        ("top_k=many", 422, "invalid-parameter", "top_k"),
        ("on_miss=shrug", 422, "invalid-parameter", "best_effort"),
        ("latency_budget=20", 422, "invalid-parameter", "no parameter"),
        ("tier=%ff", 400, "malformed-request", "UTF-8"),
        ("task=dogs", 404, "unknown-task", "imagenet"),
        ("task=../etc", 404, "unknown-task", "imagenet"),
        ("variant=mobilenet_v1_0.5_999_fp32", 404, "unknown-variant", "mobilenet_v1_0.5_160_fp32"),
        ("variant=", 404, "unknown-variant", "mobilenet_v1_0.5_160_fp32"),
        ("latency_budget_ms=0.01&on_miss=reject", 422, "budget-infeasible", "at least"),
    )
]  # fmt: skip

ADDRESSES = [
    Case("unknown path", 404, "not-found", "/v1/guess", path="/v1/guess"),
    *[
        Case(f"GET {path}?{query}", status, code, says, method="GET", path=path, query=query)
        for path, query, status, code, says in (
            ("/v1/classify", "", 405, "method-not-allowed", "GET"),
            ("/v1/variants", "task=x", 404, "unknown-task", "imagenet"),
            ("/v1/tiers", "task=x", 404, "unknown-task", "imagenet"),
            ("/v1/tiers", "x=1", 422, "invalid-parameter", "no parameter"),
        )
    ],
]

CASES = [*BODIES, *CONTENT_TYPES, *MULTIPART, *PARAMETERS, *ADDRESSES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_request_is_refused_with_a_reason_and_the_service_goes_on(
    case: Case, client: httpx.Client
) -> None:
    url = f"{case.path}?{case.query}" if case.query else case.path
    content = case.body if case.method == "POST" else None
    headers = case.headers if case.method == "POST" else None
    answer = client.request(case.method, url, content=content, headers=headers)

    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (
        case.status,
        f"urn:mobilenet-service:problem:{case.code}",
    )
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == case.status
    assert case.says in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert not any(leak in answer.text for leak in ("Traceback", "site-packages", "/tmp", "PIL", "Error("))  # noqa: S108

    assert client.post("/v1/classify?top_k=1", content=GOOD).status_code == 200


def test_the_table_is_as_long_as_promised() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) >= 40


def test_limits_are_told_to_programs_too(client: httpx.Client) -> None:
    too_large = client.post("/v1/classify", content=bytes(2_000_001)).json()
    assert too_large["limit_bytes"] == 2_000_000
    too_many = client.post("/v1/classify", content=pictures.png_header(60000, 60000)).json()
    assert (too_many["limit_pixels"], too_many["width"]) == (50_000_000, 60000)
    infeasible = client.post("/v1/classify?latency_budget_ms=0.01&on_miss=reject", content=GOOD).json()
    assert infeasible["fastest_ms"] > infeasible["budget_ms"] == 0.01


def test_who_sends_all_before_reading_is_told_that_it_was_too_much(client: httpx.Client) -> None:
    """As most clients do, other than the one above."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 80, timeout=20)
    connection.request("POST", "/v1/classify", bytes(30_000_000), {"Content-Type": "image/jpeg"})
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["limit_bytes"]) == (413, 2_000_000)
    connection.close()


def test_a_body_without_length_is_cut_off_at_the_limit(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(60):
            yield bytes(65536)

    answer = client.post("/v1/classify", content=chunks())
    assert answer.status_code == 413
    assert client.post("/v1/classify", content=GOOD).status_code == 200
