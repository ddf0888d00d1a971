"""Crops with part of them hidden, for judging precision where it matters: on occluded people."""

import numpy as np
from numpy.typing import NDArray

SHARES = (0.3, 0.6)
"""Least and largest share of a crop that is covered: enough to hide legs or a side, never the whole person."""


def occlude(crops: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    """Return (n, H, W, 3) copies, each covered from one side by a piece of another crop.

    A piece of a picture hides as a car or another person does; a flat colour would be a pattern of its own.
    """
    rng = np.random.default_rng([seed, len(crops)])
    covered = crops.copy()
    height, width = crops.shape[1:3]
    for number, crop in enumerate(covered):
        other = crops[(number + 1 + rng.integers(max(1, len(crops) - 1))) % len(crops)][:, ::-1]
        share = rng.uniform(*SHARES)
        rows, columns = round(share * height), round(share * width)
        side = rng.integers(3)
        if side == 0:  # from below, the commonest
            crop[height - rows :] = other[:rows]
        elif side == 1:
            crop[:, :columns] = other[:, :columns]
        else:
            crop[:, width - columns :] = other[:, width - columns :]
    return covered
