"""Which pictures are kept for validation: by the hash of the file, near-duplicates on one side. Pure.

The same photo comes in several crops and qualities. Two pictures whose brightness rises and falls at nearly
the same places (a difference hash) count as one; a group goes where the smallest of its file hashes says.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

SEED = 1  # of the split whose figures are published
VALIDATION_SHARE = 0.15
_CELLS = 16  # 16 x 16 signs: 256 bits
NEAR_BITS = 20
_CHUNK = 512


def file_hash(data: bytes, seed: int) -> int:
    """64 bits, uniform."""
    return int.from_bytes(hashlib.sha256(seed.to_bytes(8, "little") + data).digest()[:8], "little")


def difference_hash(picture: Bytes) -> npt.NDArray[np.uint64]:
    """[4] of uint8 [H, W, 3]: whether each of 16 x 16 cells is brighter than the next one to the right."""
    grey = picture.astype(np.float32).mean(axis=2)
    rows, columns = (np.linspace(0, side, cells + 1).astype(int) for side, cells in
                     ((grey.shape[0], _CELLS), (grey.shape[1], _CELLS + 1)))  # fmt: skip
    sums = np.add.reduceat(np.add.reduceat(grey, rows[:-1], axis=0), columns[:-1], axis=1)
    means = sums / np.diff(columns)
    bits = np.packbits(means[:, 1:] > means[:, :-1])
    return bits.view(np.uint64)


def near_groups(hashes: npt.NDArray[np.uint64], near: int = NEAR_BITS) -> npt.NDArray[np.int64]:
    """[N]: by picture, the smallest index among those it is joined to; `hashes` is [N, 4]."""
    parents = np.arange(len(hashes))
    for start in range(0, len(hashes), _CHUNK):
        chunk = hashes[start : start + _CHUNK]
        rest = hashes[start:]
        distance = np.zeros((len(chunk), len(rest)), np.uint16)
        for word in range(hashes.shape[1]):
            distance += np.bitwise_count(chunk[:, word, np.newaxis] ^ rest[:, word])
        for i, j in np.argwhere(distance <= near):
            if i < j:
                a, b = _root(parents, start + i), _root(parents, start + j)
                parents[max(a, b)] = min(a, b)
    return np.array([_root(parents, i) for i in range(len(parents))], np.int64)


def validation_mask(
    file_hashes: Iterable[int], groups: npt.NDArray[np.int64], share: float = VALIDATION_SHARE
) -> Mask:
    """[N]: whether a picture is for validation. It depends on the group's files only, not on their order."""
    keys: dict[int, int] = {}
    for value, group in zip(file_hashes, groups, strict=True):
        keys[int(group)] = min(value, keys.get(int(group), value))
    return np.array([keys[int(group)] < share * 2**64 for group in groups], bool)


def _root(parents: npt.NDArray[np.int64], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = int(parents[index])
    return index
