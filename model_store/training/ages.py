"""Age as a distribution over the years of `faces.AGES`. Pure."""

import numpy as np
import numpy.typing as npt

from model_store.faces import AGES

Floats = npt.NDArray[np.float32]
DEVIATION_YEARS = 2.5  # how exact a label is taken to be
_YEARS = np.array(AGES, np.float32)


def distributions(years: npt.NDArray[np.floating]) -> Floats:
    """[N, ages] around [N] labels: a bell of `DEVIATION_YEARS`, cut off and summing to 1; above the last
    year counts as the last year."""
    centres = np.clip(years, _YEARS[0], _YEARS[-1])[:, np.newaxis]
    bells = np.exp(-(((_YEARS - centres) / DEVIATION_YEARS) ** 2) / 2)
    return np.asarray(bells / bells.sum(axis=1, keepdims=True), np.float32)
