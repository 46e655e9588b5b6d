"""`compare()` shows every published figure, and hides none that does not agree."""

import csv
import re
from pathlib import Path

import pytest

from model_store.published import compare
from model_store.sources import CHECKPOINTS_BY_NAME, DEFAULT_CHECKPOINTS, OFFICIAL_CHECKPOINTS

# What is known not to agree with the equations, checked one by one in test_architecture.py.
DISAGREE = {
    ("table 2", "conv 3x3", "mult-adds"),
    ("table 4", "conv MobileNet 1.0-224", "mult-adds"),
    ("table 10", "1.0 MobileNet-224, 120 dogs", "mult-adds"),
    *(
        ("official", f"{name}{suffix}", "mult-adds")
        for name in ("0.75_224", "0.75_192", "0.75_160", "0.75_128", "0.25_192")
        for suffix in ("", "_quant")
    ),
}
# Rows by source: tables 2 (4), 3 (4), 4 (2), 5 (2), 6 (4), 7 (4), 8, 9, 10 (4) and 32 checkpoints.
ROWS = {"2": 4, "3": 4, "4": 2, "5": 2, "6": 4, "7": 4, "8": 1, "9": 1, "10": 4}


def test_every_published_figure_is_compared_once() -> None:
    rows = [(row.source, row.subject, row.quantity) for row in compare()]
    assert len(rows) == len(set(rows))
    for number, count in ROWS.items():
        for quantity in ("mult-adds", "parameters"):
            assert len([r for r in rows if r[0] == f"table {number}" and r[2] == quantity]) == count
    assert len([r for r in rows if r[0] == "official"]) == 2 * 32
    assert len(rows) == 2 * (sum(ROWS.values()) + 32)


def test_exactly_the_known_figures_disagree() -> None:
    assert {(r.source, r.subject, r.quantity) for r in compare() if not r.agrees} == DISAGREE


def test_a_reason_stands_beside_each_figure_that_disagrees_and_no_other() -> None:
    for row in compare():
        assert bool(row.reason) == (not row.agrees), row


def test_the_millions_that_a_reason_names_are_the_first_convolutions() -> None:
    """ "leaves out the first convolution (8.1 M)": adding that figure to the published one agrees."""
    named = [row for row in compare() if "first convolution" in row.reason]
    assert len(named) == 8
    for row in named:
        match = re.search(r"\(([\d.]+) M\)", row.reason)
        assert match
        assert abs(row.published + float(match[1]) - row.computed) < 1


def test_the_papers_figures_are_those_of_the_shared_tables(shared: Path) -> None:
    """Each printed figure of a row of tables 2 to 10 stands in the shared text of that table."""
    tables = dict(
        re.findall(r"^Table (\d+)[,: ](.*)$", (shared / "published/paper_tables.md").read_text(), re.M)
    )
    for row in compare():
        number = row.source.removeprefix("table ")
        if number in tables:
            figures = [float(text) for text in re.findall(r"\d+(?:\.\d+)?", tables[number])]
            assert row.published in figures, row


def test_the_table_of_checkpoints_is_the_official_one(shared: Path) -> None:
    with (shared / "published/official_checkpoints.csv").open(newline="") as file:
        official = [
            (
                row["checkpoint"],
                int(row["million_mult_adds"]),
                float(row["million_parameters"]),
                float(row["top1"]),
                float(row["top5"]),
            )
            for row in csv.DictReader(file)
        ]
    ours = [(c.name, c.million_mult_adds, c.million_parameters, c.top1, c.top5) for c in OFFICIAL_CHECKPOINTS]
    assert ours == official


def test_default_checkpoints_are_official_ones() -> None:
    assert set(DEFAULT_CHECKPOINTS) <= set(CHECKPOINTS_BY_NAME)


@pytest.mark.parametrize(
    ("name", "url", "suffix"),
    [
        ("1.0_224", "https://storage.googleapis.com/download.tensorflow.org/models/"
         "mobilenet_v1_2018_08_02/mobilenet_v1_1.0_224.tgz", "_frozen.pb"),
        ("0.25_128_quant", "https://storage.googleapis.com/download.tensorflow.org/models/"
         "mobilenet_v1_2018_08_02/mobilenet_v1_0.25_128_quant.tgz", ".tflite"),
    ],
)  # fmt: skip
def test_addresses_are_those_of_the_official_page(name: str, url: str, suffix: str) -> None:
    assert CHECKPOINTS_BY_NAME[name].url() == url
    assert CHECKPOINTS_BY_NAME[name].member_suffix == suffix


def test_the_documentation_names_what_of_the_paper_does_not_agree() -> None:
    text = (Path(__file__).parents[2] / "docs" / "model-store.md").read_text("utf-8")
    points = text.partition("What does not agree:")[2].split("\n- ")
    for figure in compare():
        if not figure.agrees and figure.source != "official":
            printed = f"{figure.published:.{figure.digits}f}"
            assert any(p.startswith(f"{figure.source}, ") and printed in p for p in points), figure
