"""What batches bring on this device: `python -m bench.batching STORE`; several threads: `several_threads`.

Time of one picture with each variant, alone, and with a run going on each CPU as when all workers are busy,
in runs of 1, 2 and 4 pictures. The cases take turns, so that a machine that drifts does not favour one, and
of each turn the first run does not count, which finds the caches of another case. Ratios are of medians.
"""

import argparse
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_store.device import keep_freed_memory, usable_cpus
from model_store.runtime import OnnxSession
from model_store.store import ModelStore

_BATCHES = (1, 2, 4)
_ROUNDS = 20
_RUNS = 8  # a turn, beside the first

Pictures = npt.NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--task", default="imagenet")
    options = parser.parse_args()
    keep_freed_memory()  # as the service does
    store, cpus = ModelStore(options.store), usable_cpus()
    titles = "  ".join(f"{n} a run" for n in _BATCHES[1:])
    print(f"{'variant':<28} {'ms':>6}  {'ms, all busy':>12}  {titles}")
    with ThreadPoolExecutor(cpus) as callers:
        for found in store.variants(options.task):
            manifest, model = store.open(options.task, found.id)
            session = OnnxSession(model)
            shape = (manifest.resolution, manifest.resolution, 3)
            pictures = np.random.default_rng(0).integers(0, 256, (max(_BATCHES), *shape), np.uint8)
            times = defaultdict(list)
            for _ in range(_ROUNDS):
                times["alone"].append(_ms(session, pictures[:1]))
                for n in _BATCHES:
                    turns = [callers.submit(_ms, session, pictures[:n]) for _ in range(cpus)]
                    times[f"{n} a run"].append(float(np.mean([turn.result() for turn in turns])))
            median = {case: float(np.median(ms)) for case, ms in times.items()}
            busy = median["1 a run"]
            ratios = "  ".join(f"{busy / median[f'{n} a run']:6.2f}x" for n in _BATCHES[1:])
            print(f"{found.id:<28} {median['alone']:6.2f}  {busy:12.2f}  {ratios}", flush=True)


def _ms(session: OnnxSession, pictures: Pictures) -> float:
    """Of one picture, on average over a turn."""
    session.run(pictures)
    before = time.perf_counter()
    for _ in range(_RUNS):
        session.run(pictures)
    return (time.perf_counter() - before) * 1e3 / _RUNS / len(pictures)


if __name__ == "__main__":
    main()
