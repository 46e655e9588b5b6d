"""Writes the golden pictures as raw RGB, for `make.mjs`: `python -m tests.golden.faces.pictures OUT`."""

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.compositions import RGB, Material, read_upright

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
COMPOSITIONS = 500


def pictures(shared: Path) -> Iterator[tuple[str, RGB]]:
    """(name, uint8 [height, width, 3]): the photos, then compositions of seeds from 0 on."""
    for path in sorted((shared / "images" / "photos").iterdir()):
        yield path.name, np.asarray(read_upright(path.read_bytes()))
    material = Material(shared)
    for seed in range(COMPOSITIONS):
        composition = material.compose(seed)
        yield composition.name, composition.pixels


def digest(pixels: RGB) -> str:
    """By which a picture is known again."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared", type=Path, default=SHARED)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    index = []
    for name, pixels in pictures(options.shared):
        data = pixels.tobytes()
        (options.out / f"{name}.rgb").write_bytes(data)
        height, width, _ = pixels.shape
        index.append({"name": name, "width": width, "height": height, "sha256": digest(pixels)})
    (options.out / "index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main()
