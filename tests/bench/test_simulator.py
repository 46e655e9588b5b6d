"""The simulator's own promises, and the policy's under random workloads."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import simulator
from bench.simulator import Family, Floats, Workload
from service.latency import ANSWER_MS

FAMILY = Family(("a", "b", "c", "d"), (0.71, 0.66, 0.58, 0.42), (10.0, 5.0, 2.5, 0.8))
CAPACITY = simulator.capacity_per_s(FAMILY, 0)
SECONDS = 10.0


def exact(arrivals: list[float], budgets: list[float], decode_ms: float = 2.0) -> Workload:
    """Without noise."""
    n = len(arrivals)
    return Workload(np.array(arrivals), np.array(budgets), np.full(n, decode_ms), np.ones(n))


def test_the_paper_family_is_all_16_variants_the_most_accurate_first() -> None:
    family = simulator.paper_family(full_ms=10.0)
    assert len(set(family.keys)) == 16
    assert family.keys[0] == "1.0_224"
    assert family.keys[-1] == "0.25_128"
    assert family.inference_ms[0] == pytest.approx(10.0)
    assert list(family.top1) == sorted(family.top1, reverse=True)
    assert min(family.inference_ms) == family.inference_ms[-1] > 0
    assert family.only(3) == Family(family.keys[3:4], family.top1[3:4], family.inference_ms[3:4])


def test_arrivals_have_the_rates_that_were_asked_for() -> None:
    steady = simulator.poisson(200, 10_000, 1)
    assert (np.diff(steady) > 0).all()
    assert len(steady) / steady[-1] * 1e3 == pytest.approx(200, rel=0.05)
    wave = simulator.square_wave(50, 300, 40, 1)
    high = (wave / 1e3 % 4) < 2
    assert (~high).sum() / 20 == pytest.approx(300, rel=0.1)
    assert high.sum() / 20 == pytest.approx(50, rel=0.2)
    rising = simulator.ramp(300, 40, 1) / 1e3
    assert len(rising) == pytest.approx(150 * 40, rel=0.1)
    assert (rising < 20).mean() == pytest.approx(0.25, abs=0.03)


def test_a_trace_is_scaled_to_the_rate_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = [f"2024-05-10 00:0{i // 60}:{i % 60:02}.500000+00:00,{i}" for i in range(0, 121, 10)]
    path.write_text("\n".join(["TIMESTAMP,tokens", *rows]) + "\n")
    times = simulator.trace(path, rate_per_s=1.0, seconds=100)
    # 13 rows are 13 seconds at one a second; they lie even.
    assert times.tolist() == pytest.approx([i * 13e3 / 12 for i in range(13)])
    assert simulator.trace(path, 1.0, 5).tolist() == pytest.approx([i * 13e3 / 12 for i in range(5)])
    assert len(simulator.trace(path, 2.0, 100)) == 13
    assert simulator.trace(path, 2.0, 100)[-1] == pytest.approx(6500)


def test_one_request_by_hand() -> None:
    result = simulator.simulate(FAMILY, exact([0.0], [100.0]))
    assert (result.on_time, result.accuracy) == (1, 0.71)
    assert result.lateness_ms == pytest.approx([12.0 + ANSWER_MS - 100])
    tight = simulator.simulate(FAMILY, exact([0.0], [8.0]))
    assert (tight.on_time, tight.accuracy) == (1, 0.58)


def test_without_a_budget_the_largest_runs_and_is_on_time() -> None:
    result = simulator.simulate(FAMILY, exact([0.0, 1.0, 2.0], [np.inf] * 3))
    assert (result.on_time, result.late) == (3, 0)
    assert result.accuracy == pytest.approx(3 * 0.71)
    assert result.lateness_ms == []


def test_first_come_first_served_by_hand() -> None:
    load = exact([0.0, 0.0, 0.0], [15.0, 15.0, 15.0])
    result = simulator.first_come_first_served(FAMILY, 0, load, workers=2)
    assert (result.on_time, result.late) == (2, 1)
    assert result.goodput_accuracy == pytest.approx(2 * 0.71 / 3)


def test_the_summary_of_nothing_is_nothing() -> None:
    result = simulator.simulate(FAMILY, exact([], []))
    assert result.goodput_accuracy == 0
    assert result.attainment_of_admitted == 1


_REQUEST = st.tuples(
    st.floats(0, 15), st.sampled_from([1.0, 5.0, 15.0, 60.0, 250.0, np.inf]), st.floats(0.7, 1.5)
)


@settings(deadline=None, max_examples=60)
@given(st.lists(_REQUEST, max_size=200), st.integers(1, 4), st.booleans())
def test_every_request_is_counted_once(
    requests: list[tuple[float, float, float]], workers: int, reject: bool
) -> None:
    n = len(requests)
    arrivals = np.cumsum([gap for gap, _, _ in requests])
    load = Workload(
        arrivals,
        np.array([b for _, b, _ in requests]),
        np.full(n, 2.0),
        np.array([x for _, _, x in requests]),
    )
    result = simulator.simulate(FAMILY, load, workers=workers, reject=reject)
    assert result.on_time + result.late + result.expired + result.refused == result.requests == n
    bounded = sum(np.isfinite(b) for _, b, _ in requests)
    patient = n - bounded
    assert patient <= result.on_time
    assert len(result.lateness_ms) == result.on_time + result.late - patient
    assert sum(late > 0 for late in result.lateness_ms) == result.late
    assert result.accuracy <= result.on_time * FAMILY.top1[0] + 1e-9
    if not reject:
        assert (result.refused, result.expired) == (0, 0)


@pytest.mark.parametrize("share", [0.7, 2.0])
def test_the_same_seed_gives_the_same_result(share: float) -> None:
    def result(seed: int) -> simulator.Result:
        arrivals = simulator.poisson(share * CAPACITY, 1500, seed)
        return simulator.simulate(FAMILY, simulator.workload(arrivals, seed))

    assert result(4) == result(4)
    assert result(4) != result(5)


@pytest.mark.parametrize("seed", [1, 2])
def test_accuracy_does_not_rise_when_load_rises(seed: int) -> None:
    goodput, of_answers = [], []
    for share in (0.5, 1, 1.5, 2, 3):
        arrivals = simulator.poisson(share * CAPACITY, 3000, seed)
        load = simulator.workload(arrivals, seed)
        result = simulator.simulate(FAMILY, load)
        goodput.append(result.goodput_accuracy)
        everyone = simulator.simulate(FAMILY, load, reject=False)
        of_answers.append(everyone.accuracy / everyone.on_time)
    for lighter, heavier in (*itertools.pairwise(goodput), *itertools.pairwise(of_answers)):
        assert heavier <= lighter + 0.005


def arrivals_of(name: str) -> Floats:
    return {
        "0.7x": lambda: simulator.poisson(0.7 * CAPACITY, int(0.7 * CAPACITY * SECONDS), 3),
        "1x": lambda: simulator.poisson(CAPACITY, int(CAPACITY * SECONDS), 3),
        "2x": lambda: simulator.poisson(2 * CAPACITY, int(2 * CAPACITY * SECONDS), 3),
        "wave": lambda: simulator.square_wave(0.3 * CAPACITY, 2 * CAPACITY, SECONDS, 3),
        "ramp": lambda: simulator.ramp(3 * CAPACITY, SECONDS, 3),
    }[name]()


@pytest.mark.parametrize(
    ("name", "least"), [("0.7x", 0.97), ("1x", 0.97), ("2x", 0.97), ("wave", 0.97), ("ramp", 1.0)]
)
def test_no_static_variant_in_hindsight_is_much_better(name: str, least: float) -> None:
    compared = simulator.compare(FAMILY, arrivals_of(name), 3)
    assert compared["to_best_static"] >= least
    assert compared["to_best_fcfs"] >= least
    assert compared["attainment_of_admitted"] >= 0.98


@pytest.mark.parametrize(("rate", "length_s"), [(1.0, 12.0), (10.0, 1.5)])
def test_parts_of_a_trace_follow_each_other_and_none_is_empty(
    tmp_path: Path, rate: float, length_s: float
) -> None:
    """60 arrivals; at ten a second there are no four parts of 12 s."""
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP\n" + "".join(f"2024-05-10 00:00:{i:02}.000000\n" for i in range(60)))
    parts = [simulator.trace_part(path, rate, 12.0, part, 4) for part in range(4)]
    whole = simulator.trace(path, rate, np.inf)
    found = np.concatenate([times + part * length_s * 1e3 for part, times in enumerate(parts)])
    np.testing.assert_allclose(found, whole[: len(found)], atol=1e-6)
    assert min(map(len, parts)) >= 11
    assert max(times.max() for times in parts) < length_s * 1e3


def test_all_the_scenarios_run_and_print(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP\n" + "".join(f"2024-05-10 00:00:{i:02}.000000\n" for i in range(60)))
    names = [name for name, _ in simulator.scenarios(FAMILY, 1.0, 0, path)]
    assert len(names) == len(set(names)) == 13
    assert names[-1] == "azure 1x"
    assert len([name for name, _ in simulator.scenarios(FAMILY, 1.0, 0, None)]) == 12
    simulator.main(["--seconds", "0.2", "--json"])
    assert '"ramp to 3x"' in capsys.readouterr().out
