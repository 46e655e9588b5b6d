"""What bench.slo makes of answers."""

import pytest

from bench.open_loop import Answer, Request
from bench.slo_summary import ratios, standard_error, summary

TOP1 = {"large": 0.7, "small": 0.5}


def answer(variant: str | None, total_ms: float = 10, status: int = 200) -> Answer:
    """To a budget of 50 ms, predicted as it came."""
    body: dict[str, object] = {}
    if variant is not None:
        body = {
            "variant": {"id": variant},
            "latency": {"total_ms": total_ms, "predicted_ms": total_ms, "bound_ms": 1.2 * total_ms},
        }
    return Answer(Request(0, 50, "", b""), status, total_ms, body)


def test_goodput_counts_what_was_on_time_over_all_requests() -> None:
    found = summary([answer("large"), answer("small"), answer("large", 60), answer(None, status=429)], TOP1)
    assert found["goodput_accuracy"] == pytest.approx(1.2 / 4)
    assert found["attainment"] == 0.5
    assert found["attainment_of_admitted"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["refused"] == 0.25


def test_the_error_of_a_ratio_follows_from_how_rounds_differ() -> None:
    ours = [[answer("large")], [answer("large")], [answer("small")]]
    others = [[answer("small")] for _ in range(3)]
    assert standard_error(ours, ours, TOP1) == 0
    assert standard_error(ours, others, TOP1) == pytest.approx(0.4 / 3, abs=1e-3)


def test_ours_is_held_against_the_best_of_each_kind() -> None:
    row = {
        "ours": {"goodput_accuracy": 0.6, "clairvoyant": 0.64, "static_error": 0.01},
        "static large": {"goodput_accuracy": 0.2},
        "static small": {"goodput_accuracy": 0.5},
        "fcfs large": {"goodput_accuracy": 0.01},
        "fcfs small": {"goodput_accuracy": 0.4},
    }
    assert ratios(row) == {
        "to_clairvoyant": 0.938,
        "to_best_static": 1.2,
        "to_best_static_error": 0.01,
        "to_best_fcfs": 1.5,
        "to_largest_fcfs": 60.0,
    }


def test_alone_it_is_held_against_the_clairvoyant_only() -> None:
    assert ratios({"ours": {"goodput_accuracy": 0.6, "clairvoyant": 0.6}}) == {"to_clairvoyant": 1.0}
