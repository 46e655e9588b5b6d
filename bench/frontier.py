"""The picture of the README: which variant each latency budget buys here: `python -m bench.frontier`.

Asks a running service with one photo and falling budgets, and draws what was chosen.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import httpx
import matplotlib.pyplot as plt

_BUDGETS_MS = [40, 30, 25, 22, 20, 18, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3]
_INK, _GREY, _BLUE, _RED = "#1f2933", "#9aa5b1", "#2f6fdf", "#c9372c"


@dataclass(frozen=True)
class Answer:
    budget_ms: float
    variant: str
    decision: str
    total_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--output", type=Path, default=Path("docs/frontier.svg"))
    options = parser.parse_args()
    with httpx.Client(base_url=options.url, timeout=30) as http:
        answers = [_ask(http, options.photo.read_bytes(), budget) for budget in _BUDGETS_MS]
    _draw(answers, options.output)


def _ask(http: httpx.Client, photo: bytes, budget_ms: float) -> Answer:
    """The median of five by total time."""
    bodies = [
        http.post(f"/v1/classify?latency_budget_ms={budget_ms}", content=photo).json() for _ in range(5)
    ]
    body = sorted(bodies, key=lambda b: float(b["latency"]["total_ms"]))[2]
    return Answer(budget_ms, body["variant"]["id"], body["decision"], body["latency"]["total_ms"])


def _draw(answers: list[Answer], output: Path) -> None:
    plt.rcParams.update({"font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "frontier"})
    order = list(dict.fromkeys(a.variant for a in sorted(answers, key=lambda a: a.budget_ms)))
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(order) + 1.4))
    for a in answers:
        y = order.index(a.variant)
        on_time = a.total_ms <= a.budget_ms
        axes.plot([a.total_ms, a.budget_ms], [y, y], color=_GREY, linewidth=1, zorder=1)
        axes.scatter(a.budget_ms, y, color=_INK, marker="|", s=110, zorder=2)
        axes.scatter(a.total_ms, y, color=_BLUE if on_time else _RED, s=26, zorder=3)
    axes.set_yticks(range(len(order)), [name.removeprefix("mobilenet_v1_") for name in order])
    axes.set_xlim(0, max(_BUDGETS_MS) + 1)
    axes.set_xlabel("milliseconds:  | budget    ● answer on time (red: late)", color=_INK)
    axes.set_title("The variant that each latency budget buys, one 1080p photo", loc="left", color=_INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, colors=_INK)
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.6)
    figure.tight_layout()
    figure.savefig(output, metadata={"Date": None})


if __name__ == "__main__":
    main()
