"""What the machine could do without HTTP: the service's decoding and inference, in a loop on each CPU."""

import os
import threading
import time
from collections.abc import Sequence

import numpy as np

from bench.wrk import Load
from model_store.device import own_cpus, usable_cpus
from model_store.imaging import decode
from model_store.manifest import Preprocessing
from model_store.runtime import Session


def loop(session: Session, size: int, preprocessing: Preprocessing, picture: bytes, seconds: float) -> Load:
    """One thread for each usable CPU, pinned as the service's workers are, each on one picture at a time.

    The caller has called `keep_freed_memory`, as the service does.
    """
    threads = usable_cpus()
    cpus: Sequence[int | None] = own_cpus(threads) or [None] * threads
    times: list[list[float]] = [[] for _ in range(threads)]
    start = threading.Barrier(threads + 1)

    def work(cpu: int | None, mine: list[float]) -> None:
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})  # this thread
        start.wait()
        now = time.perf_counter()
        end = now + seconds
        while now < end:
            session.run(decode(picture, size, preprocessing)[np.newaxis])
            before, now = now, time.perf_counter()
            mine.append((now - before) * 1e3)

    workers = [threading.Thread(target=work, args=pair) for pair in zip(cpus, times, strict=True)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - began
    every = np.concatenate(times)
    p50, p99 = np.quantile(every, (0.5, 0.99))
    return Load(len(every) / elapsed, float(p50), float(p99), len(every), 0)
