"""What tests of every part may ask for."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of pictures and weights that lie outside the repository; skips where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("MOBILENET_TEST_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set MOBILENET_TEST_SHARED to the shared data's folder")
    return folder
