"""One server process: uvicorn with the service's own way to end."""

import logging
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from service.state import Service

# Longer than proxies and clients keep idle connections (60 s is common): whoever closes first must be the one
# who sends, or a request meets a connection that is just being closed.
_KEEP_ALIVE_S = 75


def serve(settings: Settings, listening: socket.socket | None = None) -> int:
    """Serves until SIGTERM or SIGINT, on the settings' address or on a socket that is bound already. Exit
    codes: 0 done, 1 the address cannot be had."""
    app = create_app(settings)
    server = _Server(_uvicorn_config(app, settings), app.state.service)
    server.run(sockets=[listening] if listening else None)
    return 0 if server.started or server.asked_to_end else 1


def _uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        proxy_headers=False,  # nothing here asks who the client is
    )


class _Server(uvicorn.Server):
    """Tells the service that it drains, serves on meanwhile where that is wanted, and ends with 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.asked_to_end = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.asked_to_end = True
        again = self._service.phase == "draining"
        seconds = self._service.settings.drain_seconds
        self._service.phase = "draining"
        if again:
            self.should_exit = self.force_exit = True
        elif sig == signal.SIGTERM and seconds > 0:
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
