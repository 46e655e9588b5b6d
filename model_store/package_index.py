"""A source archive from the Python package index, as pip is configured, running none of its code.

`pip download` would run the archive's `setup.py`. Here the index's file list (PEP 503, PEP 691) is read,
and the one file fetched, over pip's index, certificates and proxy.
"""

import ast
import base64
import html.parser
import http.client
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from model_store.download import TIMEOUT_S, DownloadError, Unreachable, fetch
from model_store.progress import Tracker

_DEFAULT_INDEX = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_MAX_LISTING_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class PipConfiguration:
    """What pip would use: indexes in order, a CA bundle, a proxy, hosts that need no certificate."""

    indexes: tuple[str, ...] = (_DEFAULT_INDEX,)
    cert: str | None = None
    proxy: str | None = None
    trusted_hosts: tuple[str, ...] = ()

    @classmethod
    def read(cls) -> "PipConfiguration":
        """From `pip config list` of this interpreter; where pip is missing, from `PIP_*` alone."""
        command = [sys.executable, "-m", "pip", "config", "list"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        return cls.parse(done.stdout if done.returncode == 0 else "")

    @classmethod
    def parse(cls, listing: str) -> "PipConfiguration":
        """From lines like `global.index-url='https://...'`; a later section beats an earlier one."""
        values: dict[str, str] = {}
        for section in ("global", "install", "download", ":env:"):
            for line in listing.splitlines():
                name, equals, value = line.partition("=")
                if equals and name.startswith(f"{section}."):
                    values[name.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
        for name in ("index-url", "extra-index-url", "cert", "proxy", "trusted-host"):
            from_environment = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
            if from_environment:
                values[name] = from_environment
        extra = values.get("extra-index-url", "").split()
        indexes = (values.get("index-url", _DEFAULT_INDEX), *extra)
        return cls(
            indexes=tuple(url for url in indexes if url.startswith(("https://", "http://"))),
            cert=values.get("cert"),
            proxy=values.get("proxy"),
            trusted_hosts=tuple(values.get("trusted-host", "").split()),
        )


def fetch_archive(
    project: str,
    filename: str,
    target: Path,
    *,
    configuration: PipConfiguration | None = None,
    tracker: Tracker | None = None,
) -> str:
    """Fetches `filename` of `project` to `target`; returns the host it came from.

    Raises Unreachable when no index answers, DownloadError when none has the file. The caller checks
    the checksum.
    """
    configuration = configuration or PipConfiguration.read()
    failure: DownloadError = Unreachable("pip is configured with no index over HTTP")
    for index in configuration.indexes:
        page, credentials = _without_credentials(f"{index.rstrip('/')}/{project}/")
        host = urllib.parse.urlsplit(page).hostname or ""
        try:
            opener = _opener(configuration, host)
            if credentials:
                opener.add_handler(credentials)
            fetch(_file_url(opener, page, filename), target, opener=opener, tracker=tracker)
        except DownloadError as error:
            failure = error
        else:
            return host
    raise failure


def _opener(configuration: PipConfiguration, host: str) -> urllib.request.OpenerDirector:
    if host in configuration.trusted_hosts:
        context = ssl._create_unverified_context()  # noqa: S323  (the operator told pip so)
    else:
        try:
            context = ssl.create_default_context(cafile=configuration.cert)
        except OSError as error:
            raise DownloadError(f"pip's certificates cannot be read: {configuration.cert}") from error
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if configuration.proxy:
        proxies = {"http": configuration.proxy, "https": configuration.proxy}
        handlers.append(urllib.request.ProxyHandler(proxies))
    return urllib.request.build_opener(*handlers)


class _Credentials(urllib.request.BaseHandler):
    """Said to one origin only, wherever its pages link or redirect to."""

    def __init__(self, url: str, authorization: str) -> None:
        self._origin, self._authorization = _origin(url), authorization

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        if _origin(request.full_url) == self._origin:
            request.add_unredirected_header("Authorization", self._authorization)
        return request

    https_request = http_request


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _without_credentials(url: str) -> tuple[str, _Credentials | None]:
    """The address without user and password, and what says them."""
    parts = urllib.parse.urlsplit(url)
    if parts.username is None:
        return url, None
    user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    bare = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, _Credentials(bare, f"Basic {token}")


def _file_url(opener: urllib.request.OpenerDirector, page: str, filename: str) -> str:
    request = urllib.request.Request(page, headers={"Accept": _ACCEPT})  # noqa: S310
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            body = response.read(_MAX_LISTING_BYTES)
            base = str(response.url)
            is_json = "json" in response.headers.get("Content-Type", "")
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"the package index answered {error.code} for {page}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"the package index cannot be reached ({page})") from error
    for name, link in _json_links(body) if is_json else _html_links(body):
        if name == filename:
            url = urllib.parse.urljoin(base, link)
            return str(urllib.parse.urldefrag(url).url)
    raise DownloadError(f"the package index has no {filename} ({page})")


def _json_links(body: bytes) -> list[tuple[str, str]]:
    try:
        return [(file["filename"], file["url"]) for file in json.loads(body)["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError("the package index sent a file list that cannot be read") from error


def _html_links(body: bytes) -> list[tuple[str, str]]:
    class Links(html.parser.HTMLParser):
        found: list[str]

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "a":
                self.found.extend(value for name, value in attrs if name == "href" and value)

    parser = Links()
    parser.found = []
    parser.feed(body.decode("utf-8", "replace"))
    return [(urllib.parse.urlsplit(link).path.rpartition("/")[2], link) for link in parser.found]
