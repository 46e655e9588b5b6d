"""Measured latencies: kept between starts, and a decode cost that grows with the picture."""

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import profile
from model_store.imaging import FORMATS, PROGRESSIVE, ImageHeader
from model_store.manifest import Preprocessing
from model_store.profile import DecodeCost, DeviceProfile, Quantiles, decode_key

PROFILE = DeviceProfile(
    device="a CPU, 2 cores",
    inference={"imagenet/mobilenet_v1_0.25_128_fp32": Quantiles(p50=1.25, p95=1.5)},
    decode={"JPEG/2": DecodeCost(base_ms=0.1, per_megapixel_ms=4, per_megabyte_ms=0)},
)
positive = st.floats(0.01, 100)
headers = st.builds(
    ImageHeader,
    st.just("JPEG"),
    st.integers(2, 4000),
    st.integers(2, 4000),
    st.integers(100, 10_000_000),
)


class Watcher:
    """A session that keeps the shapes it was asked for."""

    provider = "test"

    def __init__(self) -> None:
        self.shapes: set[tuple[int, ...]] = set()

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.shapes.add(images.shape)
        return np.ones((1, 3), np.float32)


def test_a_profile_is_read_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "state" / "profile.json"
    profile.save(path, PROFILE)
    assert profile.load(path) == PROFILE


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"device": "x", "inference": {"a": 1}}'])
def test_a_profile_that_cannot_be_read_is_measured_again(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    assert profile.load(path) is None


def test_no_profile_is_no_profile(tmp_path: Path) -> None:
    assert profile.load(tmp_path / "none.json") is None
    assert profile.load(tmp_path) is None


@pytest.mark.parametrize("version", [3, 5])
def test_a_profile_of_another_format_is_measured_again(version: int, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile.save(path, PROFILE.model_copy(update={"version": version}))
    assert profile.load(path) is None


def test_each_store_has_its_profile(tmp_path: Path) -> None:
    one, other = (profile.cache_path(tmp_path, digest) for digest in ("a", "b"))
    assert one != other
    assert one == profile.cache_path(tmp_path, "a")
    assert one.parent == tmp_path


def test_every_format_and_every_jpeg_reduction_is_measured() -> None:
    keys = {(coding, scale) for coding, scale, _ in profile._decode_cases()}
    assert keys == {(format, 1) for format in FORMATS} | {
        ("JPEG", 2), ("JPEG", 4), ("JPEG", 8), (PROGRESSIVE, 2)
    }  # fmt: skip


def test_the_measured_pictures_lead_to_the_reduction_they_stand_for() -> None:
    """At the sizes that are measured; else the cost of one reduction is filed under another."""
    for coding, scale, sides in profile._decode_cases():
        for side, sizes in sides.items():
            header = ImageHeader(coding.partition("-")[0], side, side, 1)
            assert [header.scale(size, Preprocessing()) for size in sizes] == [scale] * len(sizes)


def decode_cost(base: float, pixels: float, size: float, output: float) -> DecodeCost:
    return DecodeCost(
        base_ms=base, per_megapixel_ms=pixels, per_megabyte_ms=size, per_output_megapixel_ms=output
    )


@given(st.builds(decode_cost, positive, positive, positive, positive), headers, headers)
def test_a_larger_picture_is_never_predicted_faster(
    cost: DecodeCost, one: ImageHeader, other: ImageHeader
) -> None:
    larger = ImageHeader(
        "JPEG",
        max(one.width, other.width),
        max(one.height, other.height),
        max(one.size_bytes, other.size_bytes),
    )
    assert cost.predict_ms(larger, 128) >= cost.predict_ms(one, 128)
    assert cost.predict_ms(one, 224) > cost.predict_ms(one, 128) > cost.base_ms


@given(st.builds(decode_cost, st.floats(0.01, 2), *[st.floats(0.5, 30)] * 3))
def test_a_fit_finds_the_costs_that_made_the_times(made: DecodeCost) -> None:
    measured = [
        (ImageHeader("PNG", side, side, size_bytes), size)
        for side in (192, 512, 900)
        for size_bytes in (20_000, 200_000, 900_000)
        for size in (128, 224)
    ]
    found = DecodeCost.fit(measured, [made.predict_ms(*case) for case in measured])
    for case in measured:
        assert found.predict_ms(*case) == pytest.approx(made.predict_ms(*case), rel=1e-6)


@given(
    st.builds(decode_cost, positive, positive, positive, positive),
    st.builds(decode_cost, positive, positive, positive, positive),
    headers,
)
def test_costs_add_up(one: DecodeCost, other: DecodeCost, header: ImageHeader) -> None:
    apart = one.predict_ms(header, 160) + other.predict_ms(header, 160)
    assert one.plus(other).predict_ms(header, 160) == pytest.approx(apart)


@given(st.lists(st.floats(0.001, 1000), min_size=4, max_size=4))
def test_no_noise_makes_a_cost_negative_or_infinite(times_ms: list[float]) -> None:
    measured = [
        (ImageHeader("PNG", side, side, size_bytes), size)
        for side, size_bytes, size in
        ((192, 9_000, 128), (192, 90_000, 224), (512, 60_000, 224), (512, 600_000, 128))
    ]  # fmt: skip
    found = DecodeCost.fit(measured, times_ms)
    costs = [cost for _, cost in found]
    assert all(np.isfinite(cost) and cost >= 0 for cost in costs)
    assert any(cost > 0 for cost in costs)


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, DecodeCost], list[str]]:
    told: list[str] = []
    return profile.measure_decoding(told.append), told


def test_measuring_decoding_gives_costs_that_grow_with_the_picture(
    measured: tuple[dict[str, DecodeCost], list[str]],
) -> None:
    costs, told = measured
    assert len(told) == len(list(profile._decode_cases())) + 1
    assert set(told) < set(costs)
    header = ImageHeader("", 0, 0, 0)
    assert 0 < costs[profile.CUT].predict_ms(header, 128) <= costs[profile.CUT].predict_ms(header, 224)
    for key, cost in costs.items():
        if key == profile.CUT:
            continue
        small, large = (ImageHeader(key.partition("/")[0], s, s, s * s // 2) for s in (200, 2000))
        assert 0 < cost.predict_ms(small, 128) < cost.predict_ms(large, 128)


def test_there_is_a_cost_for_whatever_can_come(measured: tuple[dict[str, DecodeCost], list[str]]) -> None:
    costs, _ = measured
    for format in FORMATS:
        for side in (2, 300, 700, 1500, 5000):
            for progressive in {False, format == "JPEG"}:
                header = ImageHeader(format, side, side, 1000, progressive)
                assert decode_key(header.coding, header.scale(160, Preprocessing())) in costs


def test_what_comes_in_several_scans_costs_more(measured: tuple[dict[str, DecodeCost], list[str]]) -> None:
    costs, _ = measured
    for side in (300, 700, 1500, 5000):
        plain, scans = (ImageHeader("JPEG", side, side, side**2 // 5, several) for several in (False, True))
        scale = plain.scale(160, Preprocessing())
        assert scans.scale(160, Preprocessing()) == scale
        slow, fast = (costs[decode_key(header.coding, scale)] for header in (scans, plain))
        assert slow.predict_ms(scans, 160) > fast.predict_ms(plain, 160)


def test_measuring_inference_asks_for_single_pictures_of_the_resolution() -> None:
    session, other = Watcher(), Watcher()
    for found in profile.measure_inference([session, other], 160):
        assert 0 < found.p50 <= found.p95
    assert session.shapes == other.shapes == {(1, 160, 160, 3)}


def test_what_is_compared_is_measured_in_turns() -> None:
    """A machine that is slow for a moment would else make one of two slow for good."""
    order: list[str] = []
    profile._samples_ms([lambda: order.append("a"), lambda: order.append("b")], 1.0)
    turns = [name for name, _ in itertools.groupby(order)]
    assert turns == ["a", "b"] * (len(turns) // 2)
    assert len(turns) > 6
    assert order.count("a") == order.count("b")
