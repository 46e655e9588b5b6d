"""One real server for the tests that only ask it things; tests that change it start their own."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench import random_store as stores
from bench.server import RunningServer, running_server


@pytest.fixture(scope="session")
def store_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three random variants: 1.0_224, 0.5_160, 0.25_128. Read only."""
    root = tmp_path_factory.mktemp("store")
    stores.fill(root)
    return root


@pytest.fixture
def own_store(store_dir: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(store_dir, tmp_path / "store"))


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all servers of the run, so that the device is measured once."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
def server(store_dir: Path, state_dir: Path) -> Iterator[RunningServer]:
    with running_server(store_dir, state_dir, max_body_bytes="2000000", max_pixels="50000000") as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, timeout=30) as http:
        yield http


@pytest.fixture
def hangups_end() -> Iterator[None]:
    """SIGHUP ends the processes that a test starts; under nohup they would inherit that it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
