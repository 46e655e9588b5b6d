"""`mobilenet-service`: serve."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service import preflight
from service.settings import PREFIX, Settings, SettingsError, check_environment


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM, SIGINT or SIGHUP. Exit codes: 0 done, 1 failed, 2 wrong usage."""
    try:
        settings = _settings(_options(arguments))
    except SettingsError as error:
        print(f"mobilenet-service: {error}", file=sys.stderr)
        return 2
    if problem := preflight.problem(settings.state_dir):
        print(f"mobilenet-service: {problem}", file=sys.stderr)
        return 1
    from service import processes, server  # not before: they load the runtime

    server.configure_logging(settings)
    return processes.serve(settings) if settings.workers > 1 else server.serve(settings)


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
    except ValueError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = f"{PREFIX}{field[1].upper()}" if field else "a setting"
        raise SettingsError(f"{name}: this is not JSON") from None


if __name__ == "__main__":
    sys.exit(main())
