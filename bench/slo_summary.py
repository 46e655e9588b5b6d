"""What `bench/slo.py` makes of the answers that it got: attainment, goodput accuracy, ratios of policies."""

from collections.abc import Sequence

import numpy as np

from bench.open_loop import Answer

Row = dict[str, float]
Rows = dict[str, Row]


def summary(answers: list[Answer], top1: dict[str, float]) -> Row:
    """On time is what the server's clock says, from the request's head to the answer."""
    served = [a for a in answers if a.status == 200]
    totals = np.array([_latency(a, "total_ms") for a in served])
    budgets = np.array([a.request.budget_ms for a in served])
    on_time = totals <= budgets
    accuracy = np.array([top1[_variant(a)] for a in served])
    refused = [a.total_ms for a in answers if a.status in (422, 429)]
    predicted = np.array([_latency(a, "predicted_ms") for a in served])
    bounds = np.array([_latency(a, "bound_ms") for a in served])
    late = totals - budgets
    admitted = len(served) + sum(a.status == 504 for a in answers)
    return {
        "requests": len(answers),
        "goodput_accuracy": round(float((accuracy * on_time).sum()) / len(answers), 4),
        "attainment": round(float(on_time.sum()) / len(answers), 4),
        "attainment_of_admitted": round(float(on_time.sum()) / max(1, admitted), 4),
        "refused": round(len(refused) / len(answers), 4),
        "refusal_ms_p50": round(float(np.median(refused)), 2) if refused else 0.0,
        "lateness_ms_p50": round(float(np.quantile(late, 0.5)), 2) if served else 0.0,
        "lateness_ms_p99": round(float(np.quantile(late, 0.99)), 2) if served else 0.0,
        "prediction_error": round(float(np.median(np.abs(predicted - totals) / totals)), 3)
        if served
        else 0.0,
        "within_bound": round(float((totals <= bounds).mean()), 3) if served else 0.0,
        "errors": sum(a.status in (0, 500, 503) for a in answers),
    }


def standard_error(
    ours: Sequence[list[Answer]], others: Sequence[list[Answer]], top1: dict[str, float]
) -> float:
    """Of the ratio of our goodput to that of others, by how it differs between rounds."""
    goodput = [[summary(each, top1)["goodput_accuracy"] for each in rounds] for rounds in (ours, others)]
    found = np.array(goodput[0]) / np.maximum(goodput[1], 1e-3)
    return round(float(np.std(found, ddof=1) / np.sqrt(len(found))), 3)


def best_static(row: Rows) -> str:
    """The static policy that hindsight would choose. Raises ValueError where there is none."""
    static = [policy for policy in row if policy.startswith("static ")]
    return max(static, key=lambda policy: row[policy]["goodput_accuracy"])


def ratios(row: Rows) -> Row:
    """Goodput accuracy of ours to the others'."""
    ours = row["ours"]["goodput_accuracy"]
    fcfs = [r["goodput_accuracy"] for name, r in row.items() if name.startswith("fcfs ")]
    found = {"to_clairvoyant": round(ours / row["ours"]["clairvoyant"], 3)}
    if len(row) > 1:
        found["to_best_static"] = round(ours / row[best_static(row)]["goodput_accuracy"], 3)
    if "static_error" in row["ours"]:
        found["to_best_static_error"] = row["ours"]["static_error"]
    if fcfs:
        found["to_best_fcfs"] = round(ours / max(fcfs), 3)
        found["to_largest_fcfs"] = round(ours / max(fcfs[0], 1e-3), 1)
    return found


def _latency(answer: Answer, name: str) -> float:
    latency = answer.body["latency"]
    return float(latency[name]) if isinstance(latency, dict) else 0.0


def _variant(answer: Answer) -> str:
    variant = answer.body["variant"]
    return str(variant["id"]) if isinstance(variant, dict) else ""
