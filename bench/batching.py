"""What several threads and batches bring on this device: `python -m bench.batching STORE`.

Time of one picture with each variant: alone on one thread, alone on all threads, and in batches of 2, 4 and 8
on one thread. The cases take turns, so that a machine that drifts does not favour one; ratios are of medians.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from model_store.device import usable_cpus
from model_store.runtime import OnnxSession
from model_store.store import ModelStore

_BATCHES = (1, 2, 4, 8)
_ROUNDS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--task", default="imagenet")
    options = parser.parse_args()
    store, cpus = ModelStore(options.store), usable_cpus()
    print(f"{'variant':<28} {'ms':>6}  {cpus} threads  " + "  ".join(f"batch {n}" for n in _BATCHES[1:]))
    for found in store.variants(options.task):
        manifest, model = store.open(options.task, found.id)
        one, several = OnnxSession(model), OnnxSession(model, cpus)
        shape = (manifest.resolution, manifest.resolution, 3)
        pictures = np.random.default_rng(0).integers(0, 256, (max(_BATCHES), *shape), np.uint8)
        times: dict[str, list[float]] = {}
        for _ in range(_ROUNDS):
            for n in _BATCHES:
                times.setdefault(f"batch {n}", []).append(_ms(one, pictures[:n]) / n)
            times.setdefault("threads", []).append(_ms(several, pictures[:1]))
        alone = float(np.median(times["batch 1"]))
        speedups = [alone / float(np.median(times[f"batch {n}"])) for n in _BATCHES[1:]]
        threads = alone / float(np.median(times["threads"]))
        batches = "  ".join(f"{ratio:6.2f}x" for ratio in speedups)
        print(f"{found.id:<28} {alone:6.2f}  {threads:8.2f}x  {batches}", flush=True)


def _ms(session: OnnxSession, pictures: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
    before = time.perf_counter()
    session.run(pictures)
    return (time.perf_counter() - before) * 1e3


if __name__ == "__main__":
    main()
