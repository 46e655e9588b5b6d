"""`GET /`: one page to try the service with, and to see what a latency budget buys."""

import base64
import functools
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Response

router = APIRouter()


@dataclass(frozen=True, slots=True)
class _Page:
    html: bytes
    headers: dict[str, str]


@router.get("/", include_in_schema=False)
async def demo() -> Response:
    """The page calls the API as any client would; it needs no key, its calls may."""
    page = _page()
    return Response(page.html, media_type="text/html", headers=page.headers)


@functools.cache
def _page() -> _Page:
    html = resources.files("service").joinpath("web", "index.html").read_bytes()
    policy = {
        "default-src": "'none'",
        "script-src": _hash_of("script", html),
        "style-src": _hash_of("style", html),
        "img-src": "blob: data:",  # the picture before it is sent
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Permissions-Policy": "camera=(self)",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return _Page(html, headers)


def _hash_of(tag: str, html: bytes) -> str:
    """What allows the page's one inline element of this name, and no other."""
    (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline).digest()).decode()}'"
