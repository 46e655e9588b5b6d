"""Networks for the whole run: random ones, with what they answer."""

import pytest

from tests.networks import RandomNetwork


@pytest.fixture(scope="session")
def network() -> RandomNetwork:
    return RandomNetwork.make(classes=1000)


@pytest.fixture(scope="session")
def network_1001() -> RandomNetwork:
    """With a background class before the 1000."""
    return RandomNetwork.make(classes=1001, seed=1)
