"""Gives freed memory back to the system once the process nears its limit.

The C library keeps what is freed, in holes between what is not: after thousands of large bodies that is tens
of megabytes. Kept, it makes the next picture faster; near the limit it goes.
"""

import threading

from model_store.device import release_memory, resident_bytes

_INTERVAL_S = 0.25
_REST_S = 1.0  # after memory was given back, which takes some milliseconds
_NEAR = 0.85  # of the limit


class MemoryGuard:
    """A thread that looks four times a second, and gives memory back once a second at most."""

    def __init__(self, limit_bytes: int) -> None:
        self._most_bytes = int(_NEAR * limit_bytes)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        pause_s = _INTERVAL_S
        while not self._ended.wait(pause_s):
            near = (resident_bytes() or 0) > self._most_bytes
            if near:
                release_memory()
            pause_s = _REST_S if near else _INTERVAL_S
