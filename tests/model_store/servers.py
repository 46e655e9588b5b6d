"""HTTP servers on free ports of this machine that fail as told, and the archives they serve."""

import hashlib
import io
import socket
import ssl
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Page:
    """What is at an address. `authorization` is the header without which it answers 401."""

    body: bytes = b""
    content_type: str = "application/octet-stream"
    etag: str | None = None
    authorization: str | None = None
    redirect: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """How one request goes wrong."""

    status: int | None = None  # this answer, with no body
    cut_after: int | None = None  # closes the connection after so many bytes of the body
    stall_after: int | None = None  # sends no more after so many, and keeps the connection open
    silent: bool = False  # never answers
    raw: bytes | None = None  # these bytes instead of HTTP


@dataclass(frozen=True, slots=True)
class Received:
    path: str
    headers: Mapping[str, str]  # names in lower case


@dataclass
class Server:
    """Answers ranges as RFC 9110 has it. `faults` are for the next requests, in order."""

    pages: dict[str, Page] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    ranges: bool = True
    certificate: Path | None = None  # with its key in one file: the server speaks TLS
    longest_range: int | None = None  # a part is cut to so many bytes, and says so
    received: list[Received] = field(default_factory=list)
    body_bytes: int = 0  # sent so far, headers not counted

    def __enter__(self) -> Self:
        self._closing = threading.Event()
        self._arrived = threading.Semaphore(0)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            # The handshake is the handler's, or one client that gives up would stop all.
            self._http.socket = context.wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )
        self._http.daemon_threads = False  # closing waits for them: no socket is left open
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return self._http.server_port

    def put(self, path: str, body: bytes, content_type: str = "application/octet-stream") -> str:
        """Serves `body` with an ETag of its own; returns the address."""
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        self.pages[path] = Page(body, content_type, etag)
        return f"{self.url}{path}"

    def wait_for_request(self) -> None:
        """Until one more has come."""
        if not self._arrived.acquire(timeout=60):
            raise TimeoutError("no request came")

    def arrived(self) -> None:
        self._arrived.release()

    def wait_until_closed(self) -> None:
        self._closing.wait()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            with suppress(ssl.SSLError):  # a client that does not trust the certificate leaves
                super().handle()

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.received.append(Received(self.path, headers))
            fault = server.faults.pop(0) if server.faults else Fault()
            server.arrived()
            page = server.pages.get(self.path)
            if fault.silent:
                server.wait_until_closed()
            elif fault.raw is not None:
                self.wfile.write(fault.raw)
            elif fault.status is not None:
                self._answer(fault.status)
            elif page is None:
                self._answer(404)
            elif page.authorization not in (None, headers.get("authorization")):
                self._answer(401)
            elif page.redirect is not None:
                self._answer(302, {"Location": page.redirect})
            else:
                self._serve(page, headers, fault)

        def _serve(self, page: Page, headers: dict[str, str], fault: Fault) -> None:
            answer = {"Content-Type": page.content_type}
            if page.etag is not None:
                answer["ETag"] = page.etag
            start, end, size = _range(headers, page) if server.ranges else 0, len(page.body), len(page.body)
            if start > 0:
                if start >= size:
                    self._answer(416, {"Content-Range": f"bytes */{size}"})
                    return
                end = min(end, start + (server.longest_range or size))
                answer["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self._answer(206 if start else 200, answer, end - start)
            body = page.body[start:end][: fault.cut_after][: fault.stall_after]
            server.body_bytes += len(body)
            self.wfile.write(body)
            if fault.stall_after is not None:
                self.wfile.flush()
                server.wait_until_closed()

        def _answer(self, status: int, headers: Mapping[str, str] | None = None, length: int = 0) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the tests read `received`."""

    return Handler


def _range(headers: dict[str, str], page: Page) -> int:
    """Where to start; 0 where the client holds another version, or asked for no range."""
    unit, _, span = headers.get("range", "").partition("=")
    if unit != "bytes" or headers.get("if-range", page.etag) != page.etag:
        return 0
    return int(span.partition("-")[0])


@contextmanager
def closed_address() -> Iterator[str]:
    """An address that nothing listens at, for as long as it is held."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def tar_gz(members: Mapping[str, bytes], *, links: Mapping[str, str] | None = None) -> bytes:
    """A .tar.gz of regular files in order, after symbolic links by name and target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def official(graph: bytes, name: str) -> dict[str, bytes]:
    """What an official archive holds; of the checkpoint and the rest, which are not read, a few bytes."""
    return {
        f"./{name}.ckpt.data-00000-of-00001": bytes(5000),
        f"./{name}.ckpt.index": b"index",
        f"./{name}.ckpt.meta": b"meta",
        f"./{name}_eval.pbtxt": b"node {}",
        f"./{name}_frozen.pb": graph,
        f"./{name}_info.txt": f"Model: {name}".encode(),
        f"./{name}.tflite": b"TFL3",
    }
