"""Learning curves of a grid as one picture."""

import json
from pathlib import Path

from matplotlib.figure import Figure

_PANELS = (
    ("loss", "training loss", 1.0),
    ("mean_accuracy", "mean attribute accuracy, %", 100.0),
    ("mean_average_precision", "mean average precision, %", 100.0),
    ("age_error_years", "age error, years", 1.0),
)


def draw_curves(work: Path) -> None:
    """Reads `<work>/*/history.json`, of the teacher and each alpha; writes `<work>/curves.svg`."""
    histories = {
        path.parent.name: json.loads(path.read_text()) for path in sorted(work.glob("*/history.json"))
    }
    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for panel, (key, title, factor) in zip(panels, _PANELS, strict=True):
        for name, history in reversed(histories.items()):
            panel.plot(
                [point["step"] for point in history],
                [factor * point[key] for point in history],
                marker=".",
                label=name if name == "teacher" else f"alpha {name}",
            )
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(work / "curves.svg", metadata={"Date": None})
