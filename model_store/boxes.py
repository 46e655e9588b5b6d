"""From what a detector predicts to boxes: anchors, decoding, non-maximum suppression. Plain numpy.

Boxes are rows of (top, left, bottom, right) in pixels of the network's input.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from model_store.ssd import SsdSpec

FloatArray = npt.NDArray[np.float32]

# By how much offsets were scaled in training: of the centre, of the size.
_CENTRE_SCALE, _SIZE_SCALE = 10.0, 5.0
_LARGEST_GROWTH = 10.0  # exp of it is 22026: no sum of a float32 network overflows


@lru_cache(maxsize=16)
def anchors(resolution: int) -> FloatArray:
    """[anchors, 4]: centre row, centre column, height, width; in the order of the network's outputs."""
    grids = []
    for feature_map in SsdSpec(resolution).maps:
        centres = (np.arange(feature_map.size) + 0.5) * feature_map.stride + feature_map.shift
        rows, columns = np.meshgrid(centres, centres, indexing="ij")
        shapes = np.array(feature_map.anchors)
        grid = np.empty((*rows.shape, len(shapes), 4))
        grid[..., 0], grid[..., 1] = rows[..., np.newaxis], columns[..., np.newaxis]
        grid[..., 2:] = shapes
        grids.append(grid.reshape(-1, 4))
    found = np.concatenate(grids).astype(np.float32)
    found.flags.writeable = False
    return found


def decode(offsets: FloatArray, anchors: FloatArray) -> FloatArray:
    """Boxes [n, 4] of `offsets` [n, 4] (row, column, height, width) from their `anchors` [n, 4]."""
    centres = anchors[:, :2] + offsets[:, :2] / _CENTRE_SCALE * anchors[:, 2:]
    halves = np.exp(np.minimum(offsets[:, 2:] / _SIZE_SCALE, _LARGEST_GROWTH)) * anchors[:, 2:] / 2
    return np.asarray(np.concatenate([centres - halves, centres + halves], axis=1), np.float32)


def intersection_over_union(box: FloatArray, others: FloatArray) -> npt.NDArray[np.float64]:
    """[n] of one box with each of `others` [n, 4]; 0 where either has no area."""
    box, others = box.astype(np.float64), others.astype(np.float64)
    top_left = np.maximum(box[:2], others[:, :2])
    bottom_right = np.minimum(box[2:], others[:, 2:])
    common = (bottom_right - top_left).clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).clip(0).prod(axis=1)
    union = (box[2:] - box[:2]).clip(0).prod() + areas - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=common > 0))


def suppress(boxes: FloatArray, scores: FloatArray, *, max_overlap: float, max_boxes: int) -> list[int]:
    """Indices of the boxes that stay, the surest first: none overlaps a surer one by more than
    `max_overlap`, as intersection over union."""
    waiting = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(waiting) and len(kept) < max_boxes:
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        waiting = waiting[intersection_over_union(boxes[best], boxes[waiting]) <= max_overlap]
    return kept
