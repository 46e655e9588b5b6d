"""The file of trained weights: what it keeps, and what it refuses."""

import io
import zipfile
from typing import Any

import numpy as np
import pytest

from model_store.architecture import MobileNetSpec
from model_store.trained import EPSILON, load_bytes, save_bytes
from model_store.weights import WeightsError
from tests.model_store.training.networks import random_trained


def test_stored_and_loaded_it_is_the_same_to_half_precision() -> None:
    network = random_trained(0.25)
    data = save_bytes(network)
    found = load_bytes(data)
    assert (found.alpha, found.resolutions) == (0.25, (128, 160))
    for one, other in zip(found.convolutions, network.convolutions, strict=True):
        np.testing.assert_allclose(one.kernel, other.kernel, rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(one.variance, other.variance)
    assert save_bytes(found) == save_bytes(load_bytes(save_bytes(found)))
    assert save_bytes(network) == data


def test_each_resolution_has_its_own_statistics() -> None:
    network = random_trained(0.25)
    c = network.convolutions[3]
    for index, resolution in enumerate(network.resolutions):
        weights = network.at(resolution)
        assert weights.trained_resolution == resolution
        assert len(weights.layers) == len(MobileNetSpec(0.25, resolution).layers)
        scale = c.gamma / np.sqrt(c.variance[index] + EPSILON)
        np.testing.assert_allclose(
            weights.layers[3].bias, c.beta - c.mean[index] * scale, rtol=1e-5, atol=1e-6
        )
    with pytest.raises(WeightsError, match="not 224"):
        network.at(224)


def test_other_files_are_refused() -> None:
    data = save_bytes(random_trained(0.25))
    for broken in (b"", b"PK", data[: len(data) // 2], data.replace(b"classifier", b"classifies")):
        with pytest.raises(WeightsError):
            load_bytes(broken)


def changed(**arrays: Any) -> bytes:
    """A sound file but for `arrays`; None leaves one out."""
    with np.load(io.BytesIO(save_bytes(random_trained(0.25)))) as file:
        kept = {name: array for name, array in ({**file, **arrays}).items() if array is not None}
    buffer = io.BytesIO()
    np.savez(buffer, **kept)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("dw_1/mean", np.float32(1)),
        ("dw_1/mean", np.zeros((1, 8), np.float32)),  # of fewer resolutions
        ("dw_1/variance", np.zeros((2, 2), np.float32)),
        ("dw_1/gamma", None),
        ("dw_1/beta", np.zeros(8, np.int32)),
        ("dw_1/kernel", np.zeros(3, np.float16)),
        ("dw_1/kernel", np.ones((8, 1, 3, 3), np.complex64)),
        ("dw_1/kernel", np.full((8, 1, 3, 3), 1e300)),
        ("classifier/kernel", np.zeros((140, 128), np.float16)),
        ("classifier/bias", np.float32(3)),
        ("classifier/bias", np.zeros((2, 2), np.float32)),
        ("classifier/bias", np.array(["a"] * 140)),
        ("alpha", np.zeros(0, np.float32)),
        ("alpha", np.array(["0.25"])),
        ("resolutions", np.int32(224)),
        ("resolutions", np.array([128.5, 160])),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(name: str, array: Any) -> None:
    with pytest.raises(WeightsError, match=name):
        load_bytes(changed(**{name: array}))


@pytest.mark.parametrize("alpha", [np.nan, 0, 0.5, 3])
def test_an_alpha_that_is_not_the_networks_is_refused(alpha: float) -> None:
    with pytest.raises(WeightsError, match=r"alpha|conv_0/kernel"):
        load_bytes(changed(alpha=np.array([alpha], np.float32)))


@pytest.mark.parametrize("resolutions", [[], [7, 160]])
def test_resolutions_that_no_network_has_are_refused(resolutions: list[int]) -> None:
    with pytest.raises(WeightsError, match="resolution is at least 32 pixels"):
        load_bytes(changed(resolutions=np.array(resolutions, np.int32)))


def test_damage_of_any_part_of_the_archive_is_refused() -> None:
    data = save_bytes(random_trained(0.25))
    directory = data.index(b"PK\x01\x02")
    deflated = 30 + len("alpha.npy")  # the first member, after its header
    for position, value in [
        (deflated, 0xFF),
        (directory + 6, 0xFF),
        (directory + 8, 1),
        (directory + 10, 99),
    ]:
        broken = bytearray(data)
        broken[position] = value
        with pytest.raises(WeightsError, match="no network that was trained here"):
            load_bytes(bytes(broken))


@pytest.mark.parametrize("shape", ["(1,", "(1000000000000000,)"])
def test_a_header_that_makes_no_sense_is_refused(shape: str) -> None:
    """One that does not end, and one of more than any memory."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    member = np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("alpha.npy", member)
    with pytest.raises(WeightsError, match="no network that was trained here"):
        load_bytes(buffer.getvalue())


def test_an_array_that_is_no_archive_is_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    with pytest.raises(WeightsError):
        load_bytes(buffer.getvalue())
