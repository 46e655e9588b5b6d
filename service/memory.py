"""What a process may have in memory, shared out: pure.

What sessions take is estimated from their models' files. Measured with ONNX Runtime 1.32 on x86-64, networks
and detectors: once packed, an fp32 session takes 1.0 to 1.06 times its file, an int8 one 0.4 to 1; while it
is opened it takes 4 to 4.8 times (the file, what is parsed of it, what is laid out anew, what is packed).
"""

from dataclasses import dataclass

from model_store.device import KEPT_BYTES

_MIB = 1 << 20
# What the runtime takes beyond sessions once it runs (its code, the arena of activations; 30 MiB), the event
# loop, and the bodies that it receives: four clients with two megabytes each were seen to take 60.
_RUNTIME_BYTES = 64 * _MIB


def session_bytes(file_bytes: int) -> int:
    """What a session takes for as long as it is there."""
    return file_bytes * 11 // 10 + _MIB


def opening_bytes(file_bytes: int) -> int:
    """What it takes while it is opened."""
    return file_bytes * 5


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes for sessions, for pictures that wait, and for what each thread keeps to decode in."""

    sessions: int
    queue: int
    decoding: int

    def holds(self, all_bytes: int, file_bytes: int) -> bool:
        """Whether there is room for so much of sessions, the last of which, of a file of `file_bytes`, is
        opened when the others are there."""
        others_bytes = all_bytes - session_bytes(file_bytes)
        return all_bytes <= self.sessions and others_bytes + opening_bytes(file_bytes) <= self.opening

    @property
    def opening(self) -> int:
        """For sessions while one is opened: the worker that opens it does not decode."""
        return self.sessions + self.decoding

    @classmethod
    def of(cls, limit_bytes: int, taken_bytes: int, threads: int) -> "MemoryBudget":
        """`taken_bytes` is what the process has without sessions. Of what is left, an eighth is the queue's
        and a quarter is for the `threads` that decode, as far as they have use for it."""
        left = max(0, limit_bytes - taken_bytes - _RUNTIME_BYTES)
        queue = left // 8
        decoding = min(KEPT_BYTES, left // 4 // threads)
        return cls(left - queue - threads * decoding, queue, decoding)
