"""Non-maximum suppression: of boxes that overlap, the one with the highest score stays.

Written here because the packages that offer it (torchvision, OpenCV) weigh a hundred times the rest of the runtime.
"""

import numpy as np
from numpy.typing import NDArray


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], max_overlap: float) -> NDArray[np.int64]:
    """Choose among boxes greedily by score.

    Args:
        boxes: (n, 4) x1, y1, x2, y2 with x2 >= x1 and y2 >= y1.
        scores: (n,), finite.
        max_overlap: intersection over union above which the lower-scored of two boxes goes.

    Returns:
        (k,) int64 indices of the boxes that stay, by falling score.
    """
    order = np.argsort(-scores, kind="stable")
    overlap = intersection_over_union(boxes[order])
    alive = np.ones(len(order), np.bool_)
    for row in range(len(order)):
        if alive[row]:
            alive[row + 1 :] &= overlap[row, row + 1 :] <= max_overlap
    return np.asarray(order[alive], np.int64)


def intersection_over_union(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (n, n) intersection over union of (n, 4) boxes; 0 between boxes without area."""
    corner_low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])  # (n, n, 2)
    corner_high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(corner_high - corner_low, 0, None).prod(axis=-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    union = area[:, None] + area[None, :] - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float32).tiny), np.float32)
