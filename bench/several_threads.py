"""What several threads bring one client at a time: `python -m bench.several_threads STORE`.

A variant on one thread, on all CPUs' threads wherever the kernel wakes them, and on threads that each have a
CPU beside the caller's, as the service has it. One picture after another, at once and with a pause between,
as a camera sends them: a CPU that has slept is not where the kernel wakes a thread, of a virtual machine
above all. The cases take turns; medians in ms, and to one thread in brackets.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from model_store.device import on_cpu, own_cpus, usable_cpus
from model_store.imaging import UInt8Array
from model_store.runtime import OnnxSession
from model_store.store import ModelStore

_PAUSES_MS = (0, 20, 100)
_ROUNDS = 10
_RUNS = 6  # a turn, beside the first


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--task", default="imagenet")
    parser.add_argument("--variant", action="append", help="default: all")
    options = parser.parse_args()
    store, cpus = ModelStore(options.store), own_cpus(usable_cpus())
    if len(cpus) < 2:
        parser.error("this process has not two CPUs to itself")
    print(f"{'variant':<28} {'pause, ms':>9} {'one':>7} {'several':>15} {'each on its CPU':>16}")
    for found in store.variants(options.task):
        if options.variant and found.id not in options.variant:
            continue
        manifest, model = store.open(options.task, found.id)
        sessions = (
            OnnxSession(model),
            OnnxSession(model, len(cpus)),
            OnnxSession(model, len(cpus), cpus=cpus[1:]),
        )
        size = manifest.resolution
        picture = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
        for pause_ms in _PAUSES_MS:
            times: list[list[float]] = [[] for _ in sessions]
            with on_cpu(cpus[0]):
                for _ in range(_ROUNDS):
                    for session, taken in zip(sessions, times, strict=True):
                        taken.extend(_turn_ms(session, picture, pause_ms))
            one, *several = map(statistics.median, times)
            ratios = "  ".join(f"{ms:7.2f} ({one / ms:.2f}x)" for ms in several)
            print(f"{found.id:<28} {pause_ms:>9} {one:7.2f} {ratios}", flush=True)


def _turn_ms(session: OnnxSession, picture: UInt8Array, pause_ms: float) -> list[float]:
    found = []
    for _ in range(_RUNS + 1):
        time.sleep(pause_ms / 1e3)
        started = time.perf_counter()
        session.run(picture)
        found.append((time.perf_counter() - started) * 1e3)
    return found[1:]


if __name__ == "__main__":
    main()
