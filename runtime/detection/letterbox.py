"""Fitting a frame into the fixed input of a detector, and bringing its boxes back.

Both detector families shrink a frame with its proportions kept and fill the rest with grey; they differ in where they
put it. Shrinking is plain bilinear, as OpenCV's INTER_LINEAR with which both were trained: each output pixel blends
the four input pixels around its centre.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Fill of the margin; both families use it (YOLOX data_augment.py `preproc`, Ultralytics augment.py `LetterBox`).
MARGIN_GREY = 114


@dataclass(frozen=True)
class Letterbox:
    """Where a frame lies in the input of a detector.

    Attributes:
        scale: input pixels per frame pixel.
        left: margin left of the frame, in input pixels.
        top: margin above the frame, in input pixels.
        height: of the frame inside the input.
        width: of the frame inside the input.
    """

    scale: float
    left: int
    top: int
    height: int
    width: int

    def to_frame(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring (n, 4) x1, y1, x2, y2 in input pixels back to pixels of the frame."""
        offset = np.array([self.left, self.top, self.left, self.top], np.float32)
        return (boxes - offset) / np.float32(self.scale)


def corner_letterbox(frame: tuple[int, int], target: tuple[int, int]) -> Letterbox:
    """Place a frame of (height, width) in the top left corner, as YOLOX does (data_augment.py `preproc`)."""
    scale = min(target[0] / frame[0], target[1] / frame[1])
    return Letterbox(scale, 0, 0, max(1, int(frame[0] * scale)), max(1, int(frame[1] * scale)))


def centre_letterbox(frame: tuple[int, int], target: tuple[int, int]) -> Letterbox:
    """Place a frame of (height, width) in the middle, as YOLOv8 does (Ultralytics augment.py `LetterBox`)."""
    scale = min(target[0] / frame[0], target[1] / frame[1])
    height, width = max(1, round(frame[0] * scale)), max(1, round(frame[1] * scale))
    # An odd margin has its smaller half on the left and on top, as there: round(margin / 2 - 0.1).
    return Letterbox(scale, (target[1] - width) // 2, (target[0] - height) // 2, height, width)


def fit(image: NDArray[np.uint8], place: Letterbox, target: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the (target height, target width, 3) uint8 input: the shrunk frame in its place, grey around it."""
    steps = (image.shape[1] / place.width, image.shape[0] / place.height)
    # An affine transform samples the four neighbours only; Pillow's `resize` would average over the whole footprint.
    shrunk = Image.fromarray(image).transform(
        (place.width, place.height),
        Image.Transform.AFFINE,
        (steps[0], 0, 0, 0, steps[1], 0),
        Image.Resampling.BILINEAR,
    )
    canvas = np.full((*target, 3), MARGIN_GREY, np.uint8)
    canvas[place.top : place.top + place.height, place.left : place.left + place.width] = np.asarray(shrunk)
    return canvas
