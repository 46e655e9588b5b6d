"""The figures of the face networks' model card: `python -m bench.face_card FILE...`.

Each FILE is what `model-store evaluate faces --images DIR --json` printed of some variants. Writes the tables
of docs/face-networks.md, and what the manifests say of each variant (model_store/tasks/faces/accuracy.json).
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from model_store.architecture import ALPHAS, RESOLUTIONS
from model_store.evaluate import half_interval
from model_store.evaluate_faces import accuracy_of
from model_store.faces import ATTRIBUTES
from model_store.manifest import variant_id
from model_store.tasks import FACES
from model_store.training.metrics import FaceMetrics

ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "docs" / "face-networks.md"
ACCURACY = ROOT / "model_store" / "tasks" / "faces" / "accuracy.json"
_LARGEST, _SMALLEST = "mobilenet_v1_1.0_224_fp32", "mobilenet_v1_0.25_128_int8"

Found = dict[str, FaceMetrics]  # by variant id


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    found = read(parser.parse_args().files)
    accuracies = {variant: accuracy_of(metrics).model_dump() for variant, metrics in found.items()}
    ACCURACY.write_text(json.dumps(accuracies, indent=1) + "\n")
    write_section("bench.face_card", tables(found))


def write_section(program: str, text: str) -> None:
    """Replaces what the card has from `program`."""
    begin, end = f"<!-- made by python -m {program} -->", f"<!-- end of {program} -->"
    before, rest = CARD.read_text().split(begin)
    _, after = rest.split(end)
    CARD.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")


def read(files: list[Path]) -> Found:
    """In the order of the card; a later file's figures count."""
    reports = [report for file in files for report in json.loads(file.read_text())["variants"]]
    found = {report.pop("id"): FaceMetrics(**report) for report in reports}
    wanted = [variant_id(a, r, p) for a in ALPHAS for r in RESOLUTIONS for p in ("fp32", "int8")]
    return {variant: found[variant] for variant in wanted if variant in found}


def tables(found: Found) -> str:
    """Markdown: a line a network, and a line an attribute."""
    of, largest, smallest = next(iter(found.values())), found[_LARGEST], found[_SMALLEST]
    grid = [(a, r) for a in ALPHAS for r in RESOLUTIONS if variant_id(a, r, "fp32") in found]
    return f"""\
Of {of.attribute_pictures} pictures of CelebA and {of.age_pictures} of UTKFace, none of which was trained on;
± is half the 95 % interval. Accuracy and average precision (AP) are means over the 40 attributes, in per
cent; the age's error is the mean one, in years.

| alpha | pixels | accuracy | AP | age error | int8: accuracy | AP | age error |
|---|---|---|---|---|---|---|---|
{_lines(_network(found, *shape) for shape in grid)}

By attribute for the largest network ({_short(_LARGEST)}) and the smallest ({_short(_SMALLEST)}).
*Majority* is the accuracy of always giving the commoner answer; attributes in italics are not returned unless
asked for. The interval that comes with an age is meant to hold in 80 of 100 cases: it does in
{_percent(largest.age_in_interval)} and in {_percent(smallest.age_in_interval)}.

| attribute | majority | accuracy, largest | smallest | AP, largest | smallest |
|---|---|---|---|---|---|
{_lines(_attribute(largest, smallest, name) for name in ATTRIBUTES)}
"""


def _network(found: Found, alpha: float, resolution: int) -> str:
    cells = [str(alpha), str(resolution)]
    for precision in ("fp32", "int8"):
        m = found[variant_id(alpha, resolution, precision)]
        cells.append(f"{_percent(m.mean_accuracy)} ± {_percent(m.mean_accuracy_half)}")
        cells.append(f"{_percent(m.mean_average_precision)} ± {_percent(m.mean_average_precision_half)}")
        cells.append(f"{m.age_error_years:.2f} ± {m.age_error_half:.2f}")
    return f"| {' | '.join(cells)} |"


def _attribute(largest: FaceMetrics, smallest: FaceMetrics, name: str) -> str:
    cells = [name if name in FACES.returned else f"*{name}*", _percent(largest.majority[name])]
    for m in (largest, smallest):
        half = half_interval(m.accuracy[name], m.attribute_pictures)
        cells.append(f"{_percent(m.accuracy[name])} ± {_percent(half)}")
    for m in (largest, smallest):
        cells.append(f"{_percent(m.average_precision[name])} ± {_percent(m.average_precision_half[name])}")
    return f"| {' | '.join(cells)} |"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _short(variant: str) -> str:
    return variant.removeprefix("mobilenet_v1_")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    main()
