"""`mobilenet-service`: serve."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from service.app import create_app
from service.settings import PREFIX, Settings, SettingsError, check_environment
from service.state import Service


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. Exit codes: 0 done, 1 failed, 2 wrong usage."""
    try:
        settings = _settings(_options(arguments))
    except SettingsError as error:
        print(f"mobilenet-service: {error}", file=sys.stderr)
        return 2
    _configure_logging(settings)
    if settings.workers > 1:
        return _serve_processes(settings)
    app = create_app(settings)
    server = _Server(_uvicorn_config(app, settings), app.state.service)
    server.run()
    return 0 if server.started else 1


def app_from_environment() -> FastAPI:
    """What each process of `--workers N` runs; the first one has put the options there."""
    settings = _settings({})
    _configure_logging(settings)
    return create_app(settings)


def _options(arguments: Sequence[str] | None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="mobilenet-service",
        description="Serves the variants of a model store. Every setting is also a variable MOBILENET_*.",
    )
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="TCP port")
    parser.add_argument("--store", type=Path, help="the model store")
    parser.add_argument("--workers", type=int, help="server processes")
    return {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}


def _settings(options: dict[str, Any]) -> Settings:
    check_environment(os.environ)
    try:
        return Settings(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise SettingsError(f"{PREFIX}{name.upper()}: {first['msg']}") from None
    except ValueError as error:  # a variable that should be JSON and is not
        raise SettingsError(str(error)) from None


def _uvicorn_config(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        factory=isinstance(app, str),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
    )


def _serve_processes(settings: Settings) -> int:
    for name in settings.model_fields_set & {"host", "port", "store", "workers"}:
        os.environ[f"{PREFIX}{name.upper()}"] = str(getattr(settings, name))
    config = _uvicorn_config("service.__main__:app_from_environment", settings)
    uvicorn.run(
        config.app,
        host=settings.host, port=settings.port, workers=settings.workers, factory=True,
        log_config=None, access_log=False, server_header=False, date_header=False,
    )  # fmt: skip
    return 0


class _Server(uvicorn.Server):
    """Tells the service that it drains, serves on meanwhile where that is wanted, and ends with 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
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


def _configure_logging(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
