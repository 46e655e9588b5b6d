"""pip's configuration as pip reads it, and archives from local package indexes."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from model_store.download import DownloadError, Unreachable
from model_store.package_index import PipConfiguration, fetch_archive
from tests.model_store.servers import Fault, Page, Server, closed_address

PROJECT, FILENAME = "nudity", "nudity-0.2.3.tar.gz"
LISTING, ARCHIVE = f"/simple/{PROJECT}/", f"/packages/ab/{FILENAME}"
CONTENTS = b"an archive of any contents"
JSON_TYPE = "application/vnd.pypi.simple.v1+json"


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this machine's pip configuration nor its proxies reach a test."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def index() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def other() -> Iterator[Server]:
    with Server() as server:
        yield server


def html(*links: str) -> Page:
    anchors = "".join(f'<a href="{link}" data-requires-python="&gt;=3">file</a><br/>' for link in links)
    return Page(f"<!DOCTYPE html><html><body>{anchors}</body></html>".encode(), "text/html")


def serve(server: Server, listing: Page | None = None) -> str:
    """An index of one project that has the archive; returns its address."""
    older = "../../packages/aa/nudity-0.2.2.tar.gz#sha256=00"
    server.pages[LISTING] = listing or html(older, f"../../packages/ab/{FILENAME}#sha256=ab12")
    server.put(ARCHIVE, CONTENTS)
    return f"{server.url}/simple"


def fetched(target: Path, *indexes: str, **options: str) -> bytes:
    """What `fetch_archive` gets from these indexes."""
    configuration = PipConfiguration(indexes=indexes, proxy=options.get("proxy"), cert=options.get("cert"))
    fetch_archive(PROJECT, FILENAME, target, configuration=configuration)
    return target.read_bytes()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / FILENAME


def test_without_configuration_pip_uses_pypi() -> None:
    assert PipConfiguration.parse("") == PipConfiguration(("https://pypi.org/simple",))


def test_values_are_read_as_pip_prints_them() -> None:
    listing = """\
global.cert='/etc/ssl/of company.pem'
global.index-url="https://user:it's@host/simple?a=b"
global.proxy='http://proxy:3128'
global.timeout='60'
global.trusted-host='\\none.example\\ntwo.example'
"""
    assert PipConfiguration.parse(listing) == PipConfiguration(
        indexes=("https://user:it's@host/simple?a=b",),
        cert="/etc/ssl/of company.pem",
        proxy="http://proxy:3128",
        trusted_hosts=("one.example", "two.example"),
    )


@pytest.mark.parametrize(
    ("sections", "wins"),
    [
        (["global"], "global"),
        (["global", "install"], "install"),
        (["download", "install", "global"], "download"),
        ([":env:", "global", "download"], ":env:"),
        (["list", "global"], "global"),
    ],
)
def test_the_section_nearer_to_the_command_wins(sections: list[str], wins: str) -> None:
    hosts = {section: f"https://{section.strip(':')}.example/simple" for section in sections}
    listing = "\n".join(f"{section}.index-url={url!r}" for section, url in hosts.items())
    assert PipConfiguration.parse(listing).indexes == (hosts[wins],)


def test_extra_indexes_come_after_the_first() -> None:
    listing = "global.extra-index-url='\\nhttps://b/simple\\nhttp://c/simple'"
    found = PipConfiguration.parse(listing).indexes
    assert found == ("https://pypi.org/simple", "https://b/simple", "http://c/simple")


def test_indexes_that_are_folders_are_passed_over() -> None:
    listing = "global.index-url='file:///opt/pypi'\nglobal.extra-index-url='https://b/s file:///c'"
    assert PipConfiguration.parse(listing).indexes == ("https://b/s",)


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INDEX_URL", "EXTRA_INDEX_URL"):
        monkeypatch.setenv(f"PIP_{name}", f"https://{name.lower()}/simple")
    monkeypatch.setenv("PIP_CERT", "/env.pem")
    monkeypatch.setenv("PIP_PROXY", "http://env:3128")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "a b")
    listing = "global.index-url='https://file/simple'\nglobal.cert='/file.pem'\n:env:.proxy='http://x:1'"
    assert PipConfiguration.parse(listing) == PipConfiguration(
        indexes=("https://index_url/simple", "https://extra_index_url/simple"),
        cert="/env.pem",
        proxy="http://env:3128",
        trusted_hosts=("a", "b"),
    )


def test_pips_own_files_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://mirror.example/simple\n[download]\nproxy = http://p:1\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    found = PipConfiguration.read()
    assert found.indexes[0] == "https://mirror.example/simple"
    assert found.proxy == "http://p:1"


def test_an_html_index(index: Server, target: Path) -> None:
    assert fetched(target, serve(index)) == CONTENTS
    assert [request.path for request in index.received] == [LISTING, ARCHIVE]


def test_a_slash_after_the_index_is_not_doubled(index: Server, target: Path) -> None:
    assert fetched(target, serve(index) + "/") == CONTENTS


def test_a_json_index(index: Server, target: Path) -> None:
    files = [
        {"filename": f"{FILENAME}.metadata", "url": "/wrong", "hashes": {}},
        {"filename": FILENAME, "url": f"../../packages/ab/{FILENAME}", "hashes": {"sha256": "ab"}},
    ]
    page = Page(json.dumps({"meta": {"api-version": "1.0"}, "files": files}).encode(), JSON_TYPE)
    assert fetched(target, serve(index, page)) == CONTENTS
    assert JSON_TYPE in index.received[0].headers["accept"]


def test_a_file_on_another_host(index: Server, other: Server, target: Path) -> None:
    serve(other)
    page = html(f"{other.url}{ARCHIVE}#sha256=ab")
    assert fetched(target, serve(index, page)) == CONTENTS
    assert [request.path for request in other.received] == [ARCHIVE]


def test_links_are_relative_to_where_the_index_led(index: Server, other: Server, target: Path) -> None:
    serve(other, html(f"../../packages/ab/{FILENAME}"))
    index.pages[LISTING] = Page(redirect=f"{other.url}{LISTING}")
    assert fetched(target, f"{index.url}/simple") == CONTENTS


USER, PASSWORD = "me@company", "pa:ss/word"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def with_credentials(url: str) -> str:
    return url.replace("http://", "http://me%40company:pa%3Ass%2Fword@")


def protect(server: Server) -> None:
    for path, page in server.pages.items():
        server.pages[path] = replace(page, authorization=BASIC)


def test_an_index_with_a_password(index: Server, target: Path) -> None:
    url = serve(index)
    protect(index)
    assert fetched(target, with_credentials(url)) == CONTENTS
    assert "@" not in index.received[0].headers["host"]
    with pytest.raises(DownloadError, match="401"):
        fetched(target, url)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_password_stays_with_its_index(index: Server, other: Server, target: Path, host: str) -> None:
    """Another port is another server."""
    serve(other)
    url = serve(index, html(f"http://{host}:{other.port}{ARCHIVE}"))
    protect(index)
    assert fetched(target, with_credentials(url)) == CONTENTS
    assert len(other.received) == 1
    assert "authorization" not in other.received[0].headers


@pytest.mark.parametrize("path", [LISTING, ARCHIVE])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_password_follows_no_redirect(
    index: Server, other: Server, target: Path, path: str, host: str
) -> None:
    """Private indexes redirect to the signed addresses of a file store."""
    serve(other)
    url = serve(index)
    index.pages[path] = Page(redirect=f"http://{host}:{other.port}{path}")
    protect(index)
    assert fetched(target, with_credentials(url)) == CONTENTS
    assert other.received
    assert all("authorization" not in request.headers for request in other.received)


def test_the_password_goes_along_within_the_index(index: Server, target: Path) -> None:
    url = serve(index)
    index.pages["/old/nudity/"] = Page(redirect=LISTING)
    protect(index)
    assert fetched(target, with_credentials(url.replace("simple", "old"))) == CONTENTS


def test_the_password_is_in_no_message(index: Server, target: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetched(target, with_credentials(f"{index.url}/simple"))
    assert "pa%3Ass" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "page",
    [
        Page(b"not json", JSON_TYPE),
        Page(b"[]", JSON_TYPE),
        Page(b'{"files": [{"url": "x"}]}', JSON_TYPE),
        Page(b"\xff\xfe", "text/html"),
        html("nudity-0.2.2.tar.gz"),
    ],
)
def test_the_second_index_is_asked_when_the_first_lacks_the_file(
    index: Server, other: Server, target: Path, page: Page
) -> None:
    index.pages[LISTING] = page
    assert fetched(target, f"{index.url}/simple", serve(other)) == CONTENTS


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=404),
        Fault(status=503),
        Fault(raw=b""),
        Fault(raw=b"SSH-2.0-OpenSSH_9.6\r\n"),
        Fault(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n<a hr"),
        Fault(cut_after=30),
    ],
)
def test_the_second_index_is_asked_when_the_first_fails(
    index: Server, other: Server, target: Path, fault: Fault
) -> None:
    first = serve(index)
    index.faults = [fault]
    assert fetched(target, first, serve(other)) == CONTENTS


def test_the_second_index_is_asked_when_the_file_of_the_first_is_gone(
    index: Server, other: Server, target: Path
) -> None:
    first = serve(index)
    del index.pages[ARCHIVE]
    assert fetched(target, first, serve(other)) == CONTENTS


def test_the_host_that_it_came_from_is_told(index: Server, target: Path) -> None:
    with closed_address() as closed:
        indexes = (f"{closed}/simple", with_credentials(serve(index)))
        host = fetch_archive(PROJECT, FILENAME, target, configuration=PipConfiguration(indexes))
    assert host == "127.0.0.1"


def test_no_index_that_answers(target: Path) -> None:
    with closed_address() as closed, pytest.raises(Unreachable, match="package index"):
        fetched(target, f"{closed}/simple")


def test_no_index_at_all(target: Path) -> None:
    with pytest.raises(Unreachable, match="no index"):
        fetched(target)


def test_the_file_is_in_no_index(index: Server, other: Server, target: Path) -> None:
    for server in (index, other):
        serve(server, html("nudity-0.2.2.tar.gz"))
    with pytest.raises(DownloadError, match=FILENAME):
        fetched(target, f"{index.url}/simple", f"{other.url}/simple")
    assert not target.exists()


def test_an_index_behind_pips_proxy(index: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy")
    serve(index)
    # A proxy is asked for whole addresses.
    index.pages = {f"http://index.invalid{path}": page for path, page in index.pages.items()}
    assert fetched(target, "http://index.invalid/simple", proxy=index.url) == CONTENTS


def test_certificates_that_are_not_there(index: Server, target: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="certificates"):
        fetched(target, serve(index), cert=str(tmp_path / "none.pem"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-signed for 127.0.0.1, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate, and is not installed")
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=index"
    command = ["openssl", *request.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", path, "-out", path.with_name("x")], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + path.with_name("x").read_bytes())
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Server]:
    with Server(certificate=certificate) as server:
        yield server


def test_a_certificate_that_no_one_vouches_for_is_refused(secure: Server, target: Path) -> None:
    with pytest.raises(Unreachable):
        fetched(target, serve(secure))
    assert secure.received == []


def test_the_company_certificate_of_pip_is_trusted(secure: Server, target: Path, certificate: Path) -> None:
    assert fetched(target, serve(secure), cert=str(certificate)) == CONTENTS


def test_a_host_that_pip_trusts_needs_no_certificate(secure: Server, target: Path) -> None:
    configuration = PipConfiguration((serve(secure),), trusted_hosts=("127.0.0.1",))
    fetch_archive(PROJECT, FILENAME, target, configuration=configuration)
    assert target.read_bytes() == CONTENTS
