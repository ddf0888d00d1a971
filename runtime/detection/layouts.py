"""The two output layouts of person detectors that are understood, told apart by shape alone.

| | YOLOX | YOLOv8 |
| --- | --- | --- |
| input | BGR 0..255, frame in the corner | RGB 0..1, frame in the middle |
| output | (1, n, 5 + classes) | (1, 4 + classes, n) |
| box | offset from the grid cell and log size, in strides | centre and size, in input pixels |
| score | objectness times class score | class score |

n is the number of grid cells of all strides: 3,549 for 416x416 with strides 8, 16 and 32. Class 0 is "person" (COCO).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.detection.letterbox import Letterbox, centre_letterbox, corner_letterbox

Rows = NDArray[np.float32]

# Feature pyramids of the published models: P3 to P5, and P3 to P6 of the large variants.
PYRAMIDS = ((8, 16, 32), (8, 16, 32, 64))


@dataclass(frozen=True)
class Grid:
    """Cells of a feature pyramid in the order of a detector's rows: by stride, then row-major.

    Attributes:
        cells: (n, 2) float32 x, y of each cell, counted in cells.
        strides: (n, 1) float32 input pixels per cell.
    """

    cells: NDArray[np.float32]
    strides: NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """How one family of detectors is fed and read.

    Attributes:
        name: of the family.
        output: its output shape in words.
        place: puts a frame of (height, width) into an input of (height, width).
        tensor: (H, W, 3) uint8 RGB to (1, 3, H, W) float32 as the family takes it.
        rows: output of the graph to (n, channels), one row a cell.
        scores: (n, channels) to (n,) score of "person".
        boxes: chosen rows, and their places in the grid, to (k, 4) x1, y1, x2, y2 in input pixels.
    """

    name: str
    output: str
    place: Callable[[tuple[int, int], tuple[int, int]], Letterbox]
    tensor: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    rows: Callable[[NDArray[np.float32]], Rows]
    scores: Callable[[Rows], NDArray[np.float32]]
    boxes: Callable[[Rows, Grid], NDArray[np.float32]]


def recognise(output: tuple[int, ...], height: int, width: int) -> tuple[Layout, Grid] | None:
    """Tell the layout of an output shape for a detector with this input size.

    Returns:
        None if the shape fits neither, or (of inputs below 100 pixels) fits both.
    """
    if len(output) != 3 or output[0] != 1:
        return None
    found = []
    for strides in PYRAMIDS:
        if height % strides[-1] or width % strides[-1]:
            continue
        grid = grid_of(height, width, strides)
        count = len(grid.cells)
        if output[1] == count and output[2] > 5:
            found.append((YOLOX, grid))
        if output[2] == count and output[1] > 4:
            found.append((YOLOV8, grid))
    return found[0] if len(found) == 1 else None


def grid_of(height: int, width: int, strides: tuple[int, ...]) -> Grid:
    """Lay out the cells of an input of this size, for strides that divide it."""
    levels = [np.mgrid[0 : height // stride, 0 : width // stride].reshape(2, -1).T[:, ::-1] for stride in strides]
    per_cell = [np.full((len(level), 1), stride) for level, stride in zip(levels, strides, strict=True)]
    return Grid(np.concatenate(levels).astype(np.float32), np.concatenate(per_cell).astype(np.float32))


def _yolox_tensor(canvas: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(canvas[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)  # (1, 3, H, W) BGR


def _yolox_scores(rows: Rows) -> NDArray[np.float32]:
    return np.asarray(rows[:, 4] * rows[:, 5], np.float32)


def _yolox_boxes(rows: Rows, grid: Grid) -> NDArray[np.float32]:
    centre = (rows[:, :2] + grid.cells) * grid.strides
    return _corners(centre, np.exp(rows[:, 2:4]) * grid.strides)


def _yolov8_tensor(canvas: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], np.float32) / np.float32(255)  # (1, 3, H, W) RGB


def _yolov8_boxes(rows: Rows, grid: Grid) -> NDArray[np.float32]:
    return _corners(rows[:, :2], rows[:, 2:4])


def _corners(centre: NDArray[np.float32], size: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


YOLOX = Layout(
    name="YOLOX",
    output="(1, n, 5 + classes)",
    place=corner_letterbox,
    tensor=_yolox_tensor,
    rows=lambda output: output[0],
    scores=_yolox_scores,
    boxes=_yolox_boxes,
)

YOLOV8 = Layout(
    name="YOLOv8",
    output="(1, 4 + classes, n)",
    place=centre_letterbox,
    tensor=_yolov8_tensor,
    rows=lambda output: output[0].T,
    scores=lambda rows: rows[:, 4],
    boxes=_yolov8_boxes,
)
