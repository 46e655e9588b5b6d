"""How `model-store` prints: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from model_store.manifest import AnyAccuracy, VariantManifest
from model_store.training.metrics import FaceMetrics


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    print()


def print_table(columns: list[tuple[str, str]], rows: list[list[str]]) -> None:
    """Columns are (title, "left" or "right").

    Lines are as long as they need to be, on a terminal too: folded names cannot be copied or searched.
    """
    table = [[title for title, _ in columns], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    sides = [side for _, side in columns]
    for row in table:
        cells = zip(row, widths, sides, strict=True)
        line = "  ".join(cell.rjust(n) if side == "right" else cell.ljust(n) for cell, n, side in cells)
        print(line.rstrip())


def print_face_metrics(found: Mapping[tuple[str, ...], FaceMetrics], keys: tuple[str, ...]) -> None:
    """A line for each of `found`, whose keys have the titles `keys`."""
    figures = ("accuracy %", "±", "mean AP %", "±", "age error, years", "±")
    rows = [
        [
            *key,
            percent(m.mean_accuracy),
            percent(m.mean_accuracy_half),
            percent(m.mean_average_precision),
            percent(m.mean_average_precision_half),
            f"{m.age_error_years:.2f}",
            f"{m.age_error_half:.2f}",
        ]
        for key, m in found.items()
    ]
    print_table([*((key, "left") for key in keys), *((title, "right") for title in figures)], rows)
    for m in list(found.values())[:1]:
        print(
            f"{m.attribute_pictures} pictures with attributes, {m.age_pictures} with an age; "
            "± is half the 95 % confidence interval"
        )


def printable(text: str) -> str:
    """One line without control characters: manifests and names come from anywhere."""
    return "".join(c if c.isprintable() else "?" for c in text)


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def millions(value: int) -> str:
    return f"{value / 1e6:.1f}" if value < 10e6 else f"{value / 1e6:.0f}"


def accuracy_text(accuracy: AnyAccuracy | None) -> str:
    """`70.9` published; `~79.6` measured on a set of its own. Of faces, the mean over attributes."""
    if accuracy is None:
        return "-"
    text = percent(accuracy.headline)
    return text if accuracy.source == "published" else f"~{text}"


def origin_text(manifest: VariantManifest) -> str:
    origin = manifest.origin
    name = origin.location.rstrip("/").rpartition("/")[2]
    trained = origin.trained_resolution
    scaled = trained not in (None, manifest.resolution)
    notes = f", trained at {trained}" if scaled else ""
    notes += ", quantised" if manifest.quantized_from else ""
    return f"{origin.format}, {name}{notes}"


def explain_tilde(manifests: list[VariantManifest]) -> None:
    if any(m.accuracy and m.accuracy.source == "measured" for m in manifests):
        print("~ measured on a set of its own, not the published figure (see --json)")
