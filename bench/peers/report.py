"""The table and the plot of `python -m bench.peers`; from its JSON: `python -m bench.peers.report JSON`."""

import json
import sys
from pathlib import Path
from typing import Any

from bench.peers.measure import SERVICE
from bench.peers.table import OURS, PEERS, PILLOW

_INK, _GREY, _BLUE, _LINE = "#1f2933", "#9aa5b1", "#2f6fdf", "#e4e7eb"
_TITLES = {SERVICE: "this service"} | {peer.name: peer.title for peer in PEERS}
_HANDLERS = {PILLOW: "their Pillow pipeline", OURS: "our functions as their handler"}
_PLOTTED = "8"  # connections
Row = dict[str, dict[str, Any]]


def write(result: dict[str, Any], json_path: Path) -> list[Path]:
    """Writes the table and the plot beside the JSON; their paths."""
    table, plot = json_path.with_suffix(".md"), json_path.with_suffix(".svg")
    table.write_text(markdown(result, plot.name))
    _draw(result, plot)
    return [table, plot]


def best_peer(row: Row) -> str:
    """The peer with the most requests a second."""
    return max((name for name in row if name != SERVICE), key=lambda name: float(row[name]["requests_per_s"]))


def ratio(row: Row) -> float:
    """Requests a second of this service to the best peer's; infinite when no peer answered."""
    best = float(row[best_peer(row)]["requests_per_s"])
    return float(row[SERVICE]["requests_per_s"]) / best if best else float("inf")


def least_p99_ms(row: Row) -> float:
    """The shortest of the peers' p99, of those that answered at all."""
    return min(float(load["p99_ms"]) for name, load in row.items() if name != SERVICE and load["requests"])


_TABLE = """\
# Beside other servers, measured

![Requests a second at {plotted} connections]({plot})

Made by `python -m bench.peers` on {device}, {date}: {engine}; {seconds} s a point. Requests a second, then
p50 / p99 in ms as the client sees them. *To best* is this service to the best peer of the row, *p99* its p99
to the shortest p99 among the peers (below 1: shorter). Server and load generator share the CPUs.

{blocks}

| | resident memory, MiB | settings |
|---|---|---|
{memory}

This service had {variants} variants loaded, every peer one. Memory is the proportional set size of all
processes after the load with 8 connections, the most of all blocks. Errors are answers of 400 and above,
timeouts and broken connections: {errors}.
"""


def markdown(result: dict[str, Any], plot_name: str) -> str:
    engine = ", ".join(f"{name} {version}" for name, version in result["engine"].items())
    return _TABLE.format(
        plotted=_PLOTTED, plot=plot_name, device=result["device"], date=result["date"], engine=engine,
        seconds=result["seconds"], variants=result["variants_loaded"],
        blocks="\n\n".join(_block(key, block["points"]) for key, block in result["blocks"].items()),
        memory="\n".join(_memory(result)), errors=_errors(result),
    )  # fmt: skip


def _block(key: str, points: dict[str, dict[str, Row]]) -> str:
    variant, pipeline = key.split("/")
    names = list(next(iter(next(iter(points.values())).values())))
    names = [SERVICE, *sorted(name for name in names if name != SERVICE)]
    lines = [
        f"## `{variant.removeprefix('mobilenet_v1_')}`, {_HANDLERS[pipeline]}",
        "",
        "| picture | connections | " + " | ".join(_TITLES[name] for name in names) + " | to best | p99 |",
        "|---" * (len(names) + 4) + "|",
    ]
    for picture, rows in points.items():
        for connections, row in rows.items():
            cells = [_cell(row[name]) for name in names]
            tail = float(row[SERVICE]["p99_ms"]) / least_p99_ms(row)
            lines.append(
                f"| {picture} | {connections} | {' | '.join(cells)} | **{ratio(row):.2f}** | {tail:.2f} |"
            )
    return "\n".join(lines)


def _cell(load: dict[str, Any]) -> str:
    failed = f", {load['errors']} errors" if load["errors"] else ""
    return f"{load['requests_per_s']:.0f} ({load['p50_ms']:.0f} / {load['p99_ms']:.0f}{failed})"


def _memory(result: dict[str, Any]) -> list[str]:
    most: dict[str, float] = {}
    for block in result["blocks"].values():
        for name, mib in block["resident_mib"].items():
            most[name] = max(mib, most.get(name, 0))
    settings = {SERVICE: "defaults; the variant pinned, no budget"} | {p.name: p.settings for p in PEERS}
    return [f"| {_TITLES[name]} | {mib:.0f} | {settings[name]} |" for name, mib in most.items()]


def _errors(result: dict[str, Any]) -> str:
    counts: dict[str, int] = {}
    for block in result["blocks"].values():
        for rows in block["points"].values():
            for row in rows.values():
                for name, load in row.items():
                    counts[name] = counts.get(name, 0) + int(load["errors"])
    return ", ".join(f"{_TITLES[name]} {count}" for name, count in counts.items() if count) or "none"


def _draw(result: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt  # the table needs none

    plt.rcParams.update({"font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "peers"})
    panels = [
        (key, picture, rows[_PLOTTED])
        for key, block in result["blocks"].items()
        for picture, rows in block["points"].items()
    ]
    figure, grid = plt.subplots(
        (len(panels) + 1) // 2, 2, figsize=(9, 1.9 * ((len(panels) + 1) // 2)), squeeze=False
    )
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (key, picture, row) in zip(grid.flat, panels, strict=False):
        variant, pipeline = key.split("/")
        order = sorted(row, key=lambda name: float(row[name]["requests_per_s"]))
        values = [float(row[name]["requests_per_s"]) for name in order]
        axes.barh(
            [_TITLES[n] for n in order],
            values,
            color=[_BLUE if n == SERVICE else _GREY for n in order],
            height=0.7,
        )
        for y, value in enumerate(values):
            axes.text(value, y, f" {value:.0f}", va="center", fontsize=7, color=_INK)
        short = variant.removeprefix("mobilenet_v1_")
        axes.set_title(f"{short}, {picture}, {_HANDLERS[pipeline]}", loc="left", fontsize=8, color=_INK)
        axes.tick_params(left=False, labelsize=7, colors=_INK)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color=_LINE, linewidth=0.6)
        axes.set_axisbelow(True)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    write(json.loads(source.read_text()), source)
