"""People found in a frame, by a detector or read from a box file."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_TRACK = -1


@dataclass(frozen=True)
class Detections:
    """n people in one frame.

    Attributes:
        boxes: (n, 4) float32, x1, y1, x2, y2 in pixels of the frame.
        scores: (n,) float32 in 0..1; NaN where the source of the boxes gives none.
        tracks: (n,) int64, `NO_TRACK` where the source of the boxes follows nobody.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    tracks: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, chosen: NDArray[np.bool_] | NDArray[np.int64] | slice) -> "Detections":
        """Return the chosen people, by mask, by indices or by slice."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.tracks[chosen])

    @classmethod
    def none(cls) -> "Detections":
        """An empty frame."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
