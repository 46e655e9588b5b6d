"""Emulated by `bench/arm64/instructions`: how many instructions decoding and each variant take, and how much
memory a session does, in times its model's file."""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from model_store.device import release_memory, return_freed_memory
from model_store.imaging import decode, sample_picture
from model_store.manifest import Preprocessing
from model_store.runtime import OnnxSession
from model_store.store import ModelStore

RESOLUTIONS = (224, 128)
PICTURES = ((500, 375), (1920, 1080))
_MALLINFO2 = (  # malloc.h
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip
SESSIONS = 4  # of the same model: the runtime's arena grows in steps


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
    return_freed_memory()
    for precision in ("fp32", "int8"):
        kept, most = memory(store.open("imagenet", f"mobilenet_v1_1.0_224_{precision}")[1])
        print(
            f"session of {precision}: keeps {kept:.2f} of its file, takes {most:.1f} while opened", flush=True
        )


class _Allocated(ctypes.Structure):
    """What glibc's `mallinfo2` tells."""

    _fields_ = [(name, ctypes.c_size_t) for name in _MALLINFO2]


def memory(model: bytes) -> tuple[float, float]:
    """What a session keeps, by the C library, and the most that becomes resident while it is opened."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Allocated

    def allocated() -> int:
        found = library.mallinfo2()
        return int(found.uordblks + found.hblkhd)

    OnnxSession(model)  # the runtime is there, and its code translated
    release_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now
    before, resident = allocated(), _status("VmRSS")
    sessions = [OnnxSession(model)]
    most = _status("VmHWM") - resident
    sessions += [OnnxSession(model) for _ in range(SESSIONS - 1)]
    return (allocated() - before) / len(sessions) / len(model), most / len(model)


def _status(name: str) -> int:
    """Bytes, of the emulator too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
