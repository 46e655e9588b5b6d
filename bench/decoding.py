"""How long pictures take to decode, beside the usual ways of Pillow: `python -m bench.decoding`.

Each way runs in a process of its own, with the memory settings that it would have in a service, and they
take turns picture by picture, so that what else the machine does falls on all alike. With --store and
--images (a folder with labels.csv) it compares accuracy with that of the full decode instead.
"""

import argparse
import io
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from model_store import device, evaluate, jpeg, resampling
from model_store.imaging import UInt8Array, decode, sample_picture
from model_store.manifest import Preprocessing
from model_store.runtime import OnnxSession
from model_store.store import ModelStore

SIZES = ((500, 375), (1920, 1080), (4000, 3000))
FORMATS = ("JPEG", "PNG", "WEBP")
_PREPROCESSING = Preprocessing()
_WARM_UP = 3

Way = Callable[[bytes, int], UInt8Array]


def pillow(data: bytes, size: int, *, draft: bool = False) -> UInt8Array:
    """Decode, convert, central crop, bilinear resize: what services do by hand."""
    image: Image.Image = Image.open(io.BytesIO(data))
    needed = round(size / _PREPROCESSING.central_fraction)
    if draft:
        image.draft("RGB", (needed, needed))
    image = image.convert("RGB")
    width, height = image.size
    left, top = ((side - side * _PREPROCESSING.central_fraction) / 2 for side in image.size)
    box = (int(left), int(top), width - int(left), height - int(top))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def pillow_draft(data: bytes, size: int) -> UInt8Array:
    return pillow(data, size, draft=True)


def served(data: bytes, size: int) -> UInt8Array:
    return decode(data, size, _PREPROCESSING)


WAYS: dict[str, tuple[Way, bool, frozenset[ModuleType]]] = {  # with memory kept, and what is left to Pillow
    "Pillow": (pillow, False, frozenset()),
    "Pillow, draft": (pillow_draft, False, frozenset()),
    "ours": (served, True, frozenset()),
    "ours, no resize": (served, True, frozenset({resampling})),
    "nor simplejpeg": (served, True, frozenset({resampling, jpeg})),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--photo", type=Path, help="enlarged and reduced for all sizes; default: a made one")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--crops", type=int, default=1, help="random ones of each picture; 1: the picture")
    options = parser.parse_args()
    if options.store and options.images:
        accuracy(options.store, options.images, options.crops)
    else:
        timings(options.photo, options.resolution, options.rounds)


def timings(photo: Path | None, resolution: int, rounds: int) -> None:
    """Median ms, page faults a picture, and how many times as fast as plain Pillow."""
    print(f"{'':16}" + "".join(f"{name:>30}" for name in WAYS))
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(name)) for name in WAYS}
        for format in FORMATS:
            for width, height in SIZES:
                data = _picture(photo, format, width, height)
                samples: dict[str, list[tuple[float, int]]] = {name: [] for name in WAYS}
                for _ in range(rounds + _WARM_UP):
                    for name, worker in workers.items():
                        worker.send((data, resolution))
                        samples[name].append(worker.recv())
                print(f"{format} {width}x{height}".ljust(16) + _row([s[_WARM_UP:] for s in samples.values()]))


def _row(samples: list[list[tuple[float, int]]]) -> str:
    times = [statistics.median(ms for ms, _ in way) for way in samples]
    faults = [statistics.median(count for _, count in way) for way in samples]
    return "".join(
        f"{ms:10.2f} ms {times[0] / ms:5.2f}x {count:5.0f} fl"
        for ms, count in zip(times, faults, strict=True)
    )


def _picture(photo: Path | None, format: str, width: int, height: int) -> bytes:
    if photo is None:
        return sample_picture(format, width, height, grain=4)
    image = Image.open(photo).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format, quality=90)
    return buffer.getvalue()


@contextmanager
def _worker(name: str) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(name, theirs))
    process.start()
    try:
        yield ours
    finally:
        ours.send(None)
        process.join()


def _work(name: str, connection: Connection) -> None:
    way, memory_kept, left_out = WAYS[name]
    if jpeg in left_out:
        vars(jpeg)["simplejpeg"] = None
    if resampling in left_out:
        vars(resampling)["_own"] = None
    if memory_kept:
        device.keep_freed_memory()
    while (task := connection.recv()) is not None:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        started = time.perf_counter()
        way(*task)
        elapsed_ms = (time.perf_counter() - started) * 1e3
        connection.send((elapsed_ms, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))


def accuracy(root: Path, images: Path, crops: int) -> None:
    """Top-1 of each variant with the full decode and with ours, and how many it lost and won by ours."""
    store = ModelStore(root)
    for variant in store.variants():
        manifest, model = store.open(variant.task, variant.id)
        session = OnnxSession(model)
        right = np.array(
            [
                [session.run(way(data, manifest.resolution)[np.newaxis]).argmax() == picture.index
                 for way in (pillow, served)]
                for picture in evaluate.read_labels(images, session.classes)
                for data in crops_of(picture.path.read_bytes(), crops)
            ]
        )  # fmt: skip
        full, ours = right.T
        print(
            f"{manifest.id:28} {len(right)} pictures  full {full.mean():.2%}  ours {ours.mean():.2%}"
            f"  lost {(full & ~ours).sum()}  won {(ours & ~full).sum()}",
            flush=True,
        )


def crops_of(data: bytes, count: int) -> Iterator[bytes]:
    """The picture itself, or random parts of it, half of them mirrored, as new JPEG files."""
    if count == 1:
        yield data
        return
    image = Image.open(io.BytesIO(data)).convert("RGB")
    rng = np.random.default_rng(len(data))
    for _ in range(count):
        size = np.array(image.size)
        wanted = (size * rng.uniform(0.85, 1, 2)).astype(int)
        left, top = rng.integers(0, size - wanted + 1)
        part = image.crop((left, top, left + wanted[0], top + wanted[1]))
        if rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        buffer = io.BytesIO()
        part.save(buffer, "JPEG", quality=92)
        yield buffer.getvalue()


if __name__ == "__main__":
    main()
