"""Accuracy on labelled pictures: counted right, and errors that say which file is wrong."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from model_store.evaluate import LabelledPicture, LabelsError, evaluate, half_interval, read_labels
from model_store.manifest import Preprocessing

CLASSES = 10


class GreyReader:
    """Answers by the picture's grey level: level 10 k ranks the classes k, k+1, k+2, ... in turn."""

    provider = "test"

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        first = np.round(images.mean(axis=(1, 2, 3)) / 10).astype(int)
        ranks = (np.arange(CLASSES) - first[:, np.newaxis]) % CLASSES
        return np.asarray(1 / (1 + ranks), np.float32)


def folder_of(tmp_path: Path, labels: list[tuple[int, int]]) -> Path:
    """Pictures of (grey level / 10, labelled class)."""
    lines = ["file,index,synset"]
    for number, (level, index) in enumerate(labels):
        buffer = io.BytesIO()
        Image.new("L", (40, 40), level * 10).save(buffer, "PNG")
        (tmp_path / f"{number}.png").write_bytes(buffer.getvalue())
        lines.append(f"{number}.png,{index},n{index:08}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_top1_and_top5_are_counted(tmp_path: Path) -> None:
    # Ranked first, second, fifth, sixth and last of the ten classes.
    folder = folder_of(tmp_path, [(3, 3), (3, 4), (3, 7), (3, 8), (3, 2)])
    seen: list[None] = []
    accuracy = evaluate(
        GreyReader(),
        32,
        Preprocessing(),
        read_labels(folder, CLASSES),
        dataset="five greys",
        note="made up",
        on_picture=lambda: seen.append(None),
    )
    assert (accuracy.top1, accuracy.top5) == (1 / 5, 3 / 5)
    assert (accuracy.pictures, accuracy.source, accuracy.dataset) == (5, "measured", "five greys")
    assert accuracy.note == "made up"
    assert len(seen) == 5


def test_classes_that_tie_are_ranked_by_number(tmp_path: Path) -> None:
    """As TensorFlow's top_k does: a network that answers the same for all gets no credit but class 0's."""

    class Undecided(GreyReader):
        def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            return np.full((len(images), CLASSES), 0.1, np.float32)

    pictures = read_labels(folder_of(tmp_path, [(0, 0), (0, 1), (0, 4), (0, 5), (0, 9)]), CLASSES)
    accuracy = evaluate(Undecided(), 32, Preprocessing(), pictures, dataset="")
    assert (accuracy.top1, accuracy.top5) == (1 / 5, 3 / 5)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [(1, 1), (2, 2)])
    pictures = read_labels(folder, CLASSES)
    (folder / "1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(LabelsError, match=r"1\.png"):
        evaluate(GreyReader(), 32, Preprocessing(), pictures, dataset="")
    (folder / "0.png").unlink()
    with pytest.raises(LabelsError, match=r"0\.png"):
        evaluate(GreyReader(), 32, Preprocessing(), pictures, dataset="")


def test_labels_are_read_in_their_order(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [(1, 7), (2, 0)])
    assert read_labels(folder, CLASSES) == [
        LabelledPicture(folder / "0.png", 7),
        LabelledPicture(folder / "1.png", 0),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"file,index\n", "no pictures"),
        (b"", "no pictures"),
        (b"file,class\na.png,3\n", "columns file and index"),
        (b"file,index\na.png,cat\n", "columns file and index"),
        (b"file,index\na.png\n", "columns file and index"),
        (b"file,index\na.png,10\n", "class 10; classes are 0 to 9"),
        (b"file,index\na.png,-1\n", "class -1"),
        (b"file,index\na.png,1\n,3\n", "names no file for picture 2"),
        (b"index,file\n3\n", "names no file for picture 1"),
        (b"file,index\na\0.png,3\n", "names no file for picture 1"),
        (b"file,index\n\xff\xfe,1\n", "columns file and index"),
        (b'file,index\n"' + b"a" * 200_000 + b'",1\n', "labels.csv"),
    ],
)
def test_labels_that_cannot_be_used(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(LabelsError, match=reason):
        read_labels(tmp_path, CLASSES)


def test_a_folder_without_labels(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"labels\.csv cannot be read"):
        read_labels(tmp_path, CLASSES)


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    assert half_interval(0.5, 100) == pytest.approx(0.098)
    assert half_interval(0.8, 510) == pytest.approx(0.0347, abs=1e-4)
    assert half_interval(1.0, 510) == 0
    assert half_interval(0.7, 50_000) < half_interval(0.7, 500)
