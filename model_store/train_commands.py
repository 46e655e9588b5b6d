"""The command that trains: `train`."""

import argparse
import json
from pathlib import Path

from model_store.architecture import ALPHAS
from model_store.cli_output import percent, print_json, print_table
from model_store.graph import read_classifier
from model_store.store import ModelStore
from model_store.training.labels import DataError
from model_store.weights import NetworkWeights

_START_TASK = "imagenet"


def train(store: ModelStore, options: argparse.Namespace) -> int:
    try:
        from model_store.training.grid import train_faces
    except ImportError as error:
        raise DataError(f"{error.name} is missing: install the extra `train`") from None
    from model_store.training.plan import full_grid

    files = train_faces(full_grid(), options.data, options.work, starts(store))
    _report(files, as_json=options.json)
    return 0


def starts(store: ModelStore) -> dict[float, NetworkWeights]:
    """Trained bodies to start from, by alpha: of ImageNet variants the fp32 one of the highest resolution."""
    found = {}
    variants = [
        v.manifest for v in store.variants(_START_TASK) if v.manifest and v.manifest.precision == "fp32"
    ]
    for manifest in sorted(variants, key=lambda m: m.resolution):
        found[manifest.alpha] = manifest.id
    if ALPHAS[0] not in found:
        raise DataError(
            f"training starts from ImageNet weights of alpha {ALPHAS[0]}, which the store {store.root} "
            "lacks; `model-store pull imagenet` fetches them"
        )
    return {alpha: read_classifier(store.open(_START_TASK, id)[1]) for alpha, id in found.items()}


def _report(files: list[Path], *, as_json: bool) -> None:
    """Metrics on the validation pictures, as training left them beside each network."""
    found = {file.parent.name: json.loads((file.parent / "metrics.json").read_text()) for file in files}
    if as_json:
        print_json(
            {
                "networks": {alpha: str(file) for alpha, file in zip(found, files, strict=True)},
                "metrics": found,
            }
        )
        return
    rows = [
        [
            alpha,
            resolution,
            percent(m["mean_accuracy"]),
            percent(m["mean_accuracy_half"]),
            percent(m["mean_average_precision"]),
            f"{m['age_error_years']:.2f}",
            f"{m['age_error_half']:.2f}",
        ]
        for alpha, by_resolution in found.items()
        for resolution, m in by_resolution.items()
    ]
    print_table(
        [
            ("alpha", "left"), ("pixels", "right"), ("accuracy %", "right"), ("±", "right"),
            ("mean AP %", "right"), ("age error", "right"), ("±", "right"),
        ],
        rows,
    )  # fmt: skip
    print("validation pictures; ± is half the 95 % confidence interval")
