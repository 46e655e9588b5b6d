"""How a weights file is refused."""

from pathlib import Path

import pytest

from model_store import build
from model_store.weights import WeightsError


def refusal(path: Path) -> str:
    """The text with which `path` is refused."""
    with pytest.raises(WeightsError) as caught:
        build.load_weights(path)
    text = str(caught.value)
    assert 10 < len(text) < 300
    return text
