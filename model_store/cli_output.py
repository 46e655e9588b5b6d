"""How `model-store` prints: tables for people, JSON for programs."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from model_store.manifest import Accuracy, VariantManifest


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    print()


def print_table(columns: list[tuple[str, str]], rows: list[list[str]]) -> None:
    """Columns are (title, "left" or "right"). Off a terminal, lines are as long as they need to be."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, side in columns:
        table.add_column(title, justify="right" if side == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def millions(value: int) -> str:
    return f"{value / 1e6:.1f}" if value < 10e6 else f"{value / 1e6:.0f}"


def accuracy_text(accuracy: Accuracy | None) -> str:
    """`70.9` published; `~79.6` measured on a set of its own."""
    if accuracy is None:
        return "-"
    return percent(accuracy.top1) if accuracy.source == "published" else f"~{percent(accuracy.top1)}"


def origin_text(manifest: VariantManifest) -> str:
    origin = manifest.origin
    name = origin.location.rstrip("/").rpartition("/")[2]
    trained = origin.trained_resolution
    scaled = trained not in (None, manifest.resolution)
    return f"{origin.format}, {name}" + (f", trained at {trained}" if scaled else "")
