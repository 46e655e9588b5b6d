"""The pictures that closed loops post: one JPEG of each size, real photos."""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from model_store.imaging import ImageError, probe

SIZES = ((500, 375), (1920, 1080))
_QUALITY = 90


class NoPhoto(Exception):
    """The folder has no JPEG."""


def of_sizes(folder: Path, sizes: Iterable[tuple[int, int]] = SIZES) -> dict[str, bytes]:
    """A JPEG for each (width, height), by "WIDTHxHEIGHT": of the folder's photos with that size the median
    by bytes; where there is none, the largest photo is cropped and resized. Raises NoPhoto."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    photos = [(size, data) for data in (p.read_bytes() for p in paths) if (size := _size(data))]
    if not photos:
        raise NoPhoto(f"{folder} has no JPEG pictures")
    largest = max(photos, key=lambda photo: photo[0][0] * photo[0][1])[1]
    found = {}
    for wanted in sizes:
        same = sorted((data for size, data in photos if size == wanted), key=len)
        found[f"{wanted[0]}x{wanted[1]}"] = same[len(same) // 2] if same else _made(largest, wanted)
    return found


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        header = probe(data, 1 << 30)
    except ImageError:
        return None
    # Decoding a progressive one takes several times as long: no typical photo.
    typical = header.format == "JPEG" and not header.progressive
    return (header.width, header.height) if typical else None


def _made(data: bytes, size: tuple[int, int]) -> bytes:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = size
    scale = max(width / image.width, height / image.height)
    cut = (width / scale, height / scale)
    left, top = (image.width - cut[0]) / 2, (image.height - cut[1]) / 2
    box = (left, top, left + cut[0], top + cut[1])
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC, box=box).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
