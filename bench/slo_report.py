"""The table and the plot of `bench/slo.py`'s result; again from its JSON: `python -m bench.slo_report`."""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

_INK, _GREY, _BLUE, _RED = "#1f2933", "#9aa5b1", "#2f6fdf", "#c9372c"


def write(result: dict[str, Any], json_path: Path) -> list[Path]:
    """Writes the table and the plot beside the JSON; their paths."""
    table, plot = json_path.with_suffix(".md"), json_path.with_suffix(".svg")
    table.write_text(_table(result, plot.name))
    _draw(result, plot)
    return [table, plot]


_TABLE = """\
# Budgets under load, measured

![Goodput accuracy of each policy on each trace]({plot})

Made by `python -m bench.slo` on {device}: open-loop arrivals over photos, budgets drawn from 15, 30, 60,
120 and 250 ms, server and load generator on the same cores, all policies in turn in one run. *Goodput
accuracy* is the published top-1 of the answers that were on time, over all requests. 1x is what
`{largest}` keeps up with ({most:.0f} requests/s; `{smallest}`: {least:.0f}). *Static*: the best single
variant in hindsight, with the same deadline queue and dropping, and ± the standard error by how the ratio
differs between rounds. *FCFS*: a single variant first come first served without dropping, the best in
hindsight and the largest. *Clairvoyant*: an upper bound that knows all arrivals, what each takes, and how
many requests a second of each variant this device was seen to answer at most, between the same turns
(`bench/clairvoyant.py`).

| trace | goodput accuracy | to best static | to best FCFS | to largest FCFS | to clairvoyant |
|---|---|---|---|---|---|
{goodput}

| trace | on time, of admitted | refused | refusal p50, ms | lateness p99, ms | prediction error | in bound |
|---|---|---|---|---|---|---|
{promises}

Lateness is total time minus budget, so negative is in time. *Prediction error* is the median of
|predicted - total| / total, *in bound* the share of answers no later than `bound_ms`. After an overload of
twice what the smallest variant keeps up with, the first answer in time came {recovery:.0f} ms later.
"""


def _table(result: dict[str, Any], plot_name: str) -> str:
    capacity = list(result["capacity_per_s"].items())
    goodput, promises = [], []
    for name, row in result["rows"].items():
        ours, ratio = row["ours"], result["ratios"][name]
        found = ("to_best_fcfs", "to_largest_fcfs", "to_clairvoyant")
        static = f"{ratio.get('to_best_static', '')}"
        if "to_best_static_error" in ratio:
            static += f" ± {ratio['to_best_static_error']:.3f}"
        goodput.append(
            [name, f"{ours['goodput_accuracy']:.3f}", static, *(f"{ratio.get(key, '')}" for key in found)]
        )
        promises.append([
            name,
            f"{100 * ours['attainment_of_admitted']:.2f} %",
            f"{100 * ours['refused']:.1f} %",
            f"{ours['refusal_ms_p50']:.1f}" if ours["refused"] else "",
            f"{ours['lateness_ms_p99']:.1f}",
            f"{100 * ours['prediction_error']:.0f} %",
            f"{100 * ours['within_bound']:.1f} %",
        ])  # fmt: skip
    return _TABLE.format(
        plot=plot_name, device=result["device"],
        largest=_short(capacity[0][0]), most=capacity[0][1],
        smallest=_short(capacity[-1][0]), least=capacity[-1][1],
        goodput="\n".join(f"| {' | '.join(cells)} |" for cells in goodput),
        promises="\n".join(f"| {' | '.join(cells)} |" for cells in promises),
        recovery=result["recovery_ms"],
    )  # fmt: skip


def _draw(result: dict[str, Any], path: Path) -> None:
    plt.rcParams.update({"font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "slo"})
    names = list(result["rows"])
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(names) + 1.6))
    for y, name in enumerate(reversed(names)):
        row = result["rows"][name]
        for policy, found in row.items():
            value = found["goodput_accuracy"]
            if policy.startswith("static "):
                axes.scatter(value, y, color=_GREY, s=26, zorder=2)
            elif policy.startswith("fcfs "):
                axes.scatter(value, y, color=_RED, marker="x", s=26, zorder=2)
        axes.scatter(row["ours"]["clairvoyant"], y, color=_INK, marker="|", s=140, zorder=3)
        axes.scatter(row["ours"]["goodput_accuracy"], y, color=_BLUE, s=52, zorder=4)
    for label, style in {
        "this service": {"color": _BLUE, "marker": "o"},
        "one variant, our queue and dropping": {"color": _GREY, "marker": "o"},
        "one variant, first come first served": {"color": _RED, "marker": "x"},
        "clairvoyant bound": {"color": _INK, "marker": "|"},
    }.items():
        axes.scatter([], [], label=label, **style)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlim(0, 0.75)
    axes.set_xlabel("goodput accuracy: top-1 of the answers on time, over all requests", color=_INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, colors=_INK)
    axes.grid(color="#e4e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="upper left", ncols=2, frameon=False, fontsize=9, labelcolor=_INK)
    figure.tight_layout(rect=(0, 0, 1, 0.89))
    figure.savefig(path, metadata={"Date": None})


def _short(variant: str) -> str:
    return variant.removeprefix("mobilenet_v1_")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "file", type=Path, nargs="?", default=Path("docs/slo.json"), metavar="FILE",
        help="what bench.slo has written; the table and the plot go beside it",
    )  # fmt: skip
    source: Path = parser.parse_args().file
    write(json.loads(source.read_text()), source)


if __name__ == "__main__":
    main()
