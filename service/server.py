"""One server process: uvicorn with the service's own way to end."""

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.protocol import KEEP_ALIVE_S, Protocol
from service.settings import Settings
from service.state import Service

log = logging.getLogger(__name__)

# What is under way when it is to end is answered; what takes longer than that is given up, before whoever
# runs containers loses patience (30 s in docker-compose.yml).
_ENDING_S = 25
# A signal to a group of processes comes twice, as their supervisor sends it on. One that comes later insists.
_INSISTING_S = 1.0


def serve(settings: Settings, listening: socket.socket | None = None, *, loads_first: bool = False) -> int:
    """Serves until SIGTERM, SIGINT or SIGHUP, on the settings' address or on a socket that is bound already;
    with `loads_first` it takes no connections before it is ready. Exit codes: 0 done, 1 it never served, as
    where the address cannot be had, or where `loads_first` finds nothing to serve."""
    if listening is None:
        try:
            listening = bind(settings)  # uvicorn would load everything first, and end with a code of its own
        except OSError as error:
            log_unbound(settings, error)
            return 1
        log_bound(listening)
    service = Service(settings, spare_collector)
    if loads_first:
        with contextlib.suppress(Exception):  # logged where it happened
            service.start()
        if service.phase == "failed":
            return 1
    server = _Server(_uvicorn_config(create_app(settings, service), settings), service)
    on_hangup(server.handle_exit)  # the others are uvicorn's to watch
    server.run(sockets=[listening])
    return 0 if server.started or server.asked_to_end else 1


def spare_collector() -> None:
    """What there is now stays, so the garbage collector need not go through it ever again: that stops all
    threads that run Python, for 50 ms on a fast core."""
    gc.collect()
    gc.freeze()


def on_hangup(handle: Callable[[int, FrameType | None], None]) -> None:
    """A terminal that is closed ends the service as SIGTERM does, unless it is to outlive that (nohup)."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handle)


def bind(settings: Settings, *, shared: bool = False) -> socket.socket:
    """A socket on the settings' address, which other processes can bind too when it is `shared`. Raises
    OSError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError:
        bound.close()
        raise
    return bound


def log_bound(bound: socket.socket) -> None:
    host, port, *_ = bound.getsockname()
    log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)


def log_unbound(settings: Settings, error: OSError) -> None:
    log.error("cannot listen on %s:%d: %s", settings.host, settings.port, error.strerror)


def _uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        http=Protocol,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=_ENDING_S,
        proxy_headers=False,  # nothing here asks who the client is
    )


class _Server(uvicorn.Server):
    """Tells the service that it drains, serves on meanwhile where that is wanted, and ends with 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._asked: float | None = None  # when it was first asked to end

    @property
    def asked_to_end(self) -> bool:
        return self._asked is not None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.phase == "starting":
            # Nobody waits for more than "not yet", and measuring cannot be interrupted, nor the wait for
            # another process that measures. Nothing is half written: files are swapped in whole.
            os._exit(0)
        now = time.monotonic()
        if self._asked is not None:
            if now - self._asked >= _INSISTING_S:
                self.should_exit = self.force_exit = True
            return
        self._asked = now
        seconds = self._service.settings.drain_seconds
        self._service.phase = "draining"
        if sig != signal.SIGINT and seconds > 0:
            timer = threading.Timer(seconds, self._exit)
            timer.daemon = True
            timer.start()
        else:
            self._exit()

    def _exit(self) -> None:
        # Not through uvicorn's own handler, which would raise the signal again at the end.
        self.should_exit = True


def configure_logging(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    # It warns of each byte that a client gets wrong, several lines a request; the client is told.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
