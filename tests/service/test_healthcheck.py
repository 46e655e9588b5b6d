"""The check that containers run beside the service."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from bench.server import RunningServer, free_port, running_server
from service.healthcheck import is_ready


def test_it_is_the_exit_code_that_tells(server: RunningServer) -> None:
    for port, code in ((urlsplit(server.base_url).port, 0), (free_port(), 1)):
        done = subprocess.run(
            [sys.executable, "-S", "-m", "service.healthcheck"],
            env={**os.environ, "MOBILENET_PORT": str(port), "PYTHONPATH": str(Path.cwd())},
            check=False,
        )
        assert done.returncode == code


def test_a_service_that_is_not_ready_is_not_healthy(tmp_path: Path) -> None:
    with running_server(tmp_path / "no store", tmp_path / "state", wait_ready=False) as server:
        assert not is_ready(urlsplit(server.base_url).port or 0)
