"""Emulated by `bench/arm64/instructions`: how many instructions decoding and each variant take."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from model_store.imaging import decode, sample_picture
from model_store.manifest import Preprocessing
from model_store.runtime import OnnxSession
from model_store.store import ModelStore

RESOLUTIONS = (224, 128)
PICTURES = ((500, 375), (1920, 1080))


def main() -> None:
    counter, store = Path(sys.argv[1]), ModelStore(Path(sys.argv[2]))

    def count(work: Callable[[], object]) -> float:
        """In millions, of the second time."""
        work()
        before = int.from_bytes(counter.read_bytes(), "little")
        work()
        return (int.from_bytes(counter.read_bytes(), "little") - before) / 1e6

    for width, height in PICTURES:
        data = sample_picture("JPEG", width, height, grain=8)
        millions = count(lambda data=data: decode(data, 224, Preprocessing()))  # type: ignore[misc]
        print(f"decode {width} x {height} for 224: {millions:.0f}", flush=True)
    for resolution in RESOLUTIONS:
        image = np.random.default_rng(0).integers(0, 256, (1, resolution, resolution, 3), np.uint8)
        for precision in ("fp32", "int8"):
            variant = f"mobilenet_v1_1.0_{resolution}_{precision}"
            session = OnnxSession(store.open("imagenet", variant)[1])
            print(f"{variant}: {count(lambda: session.run(image)):.0f}", flush=True)  # noqa: B023


if __name__ == "__main__":
    main()
