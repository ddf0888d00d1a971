"""Which triangle is seen at each pixel: a depth buffer without a loop over triangles.

Triangles are put into buckets by their size on the screen. All triangles of a bucket are tested against a rectangle of
pixels at once, and the nearest one wins by `np.minimum.at` on a key that holds depth and triangle number.
"""

from dataclasses import dataclass

import numpy as np

from fpc_deploy.rendering.arrays import Floats, Indices

_TRIANGLE_BITS = 20
_NEAREST_M = 0.05  # nothing nearer than this to the lens is drawn
_FRAGMENTS_AT_ONCE = 1 << 20
_SIDES = np.array([3, 6, 10, 16, 28, 48, 96, 256, 1024, 8192])
_EMPTY = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Visible:
    """What is seen through a window of `shape` pixels.

    Attributes:
        shape: Height and width.
        pixel: (N,) row-major index of each covered pixel.
        triangle: (N,) triangle seen there.
        weights: (N, 3) perspective-correct weights of its three corners.
        depth: (N,) metres from the lens.
    """

    shape: tuple[int, int]
    pixel: Indices
    triangle: Indices
    weights: Floats
    depth: Floats


def rasterise(
    screen: Floats, depth: Floats, triangles: Indices, shape: tuple[int, int], both_sides: bool = False
) -> Visible:
    """Find the nearest triangle at every pixel centre.

    Args:
        screen: (V, 2) x and y in pixels of the window.
        depth: (V,) metres in front of the lens.
        triangles: (T, 3) vertex numbers, fewer than 2**20.
        shape: Height and width of the window.
        both_sides: Whether triangles that face away are seen too.
    """
    corners = screen[triangles]  # (T, 3, 2)
    near = depth[triangles]
    low, high = corners.min(axis=1), corners.max(axis=1)
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    inside = (high > 0).all(1) & (low[:, 0] < shape[1]) & (low[:, 1] < shape[0])
    drawn = np.abs(area) > 1e-6 if both_sides else area > 1e-6
    usable = np.flatnonzero(inside & drawn & (near.min(1) > _NEAREST_M)).astype(np.int32)
    first = np.clip(np.floor(low[usable] - 0.5), 0, None).astype(np.int32)
    last = np.minimum(np.ceil(high[usable]).astype(np.int32), np.array([shape[1], shape[0]], np.int32))
    extent = np.maximum(last - first, 1)
    bucket = np.searchsorted(_SIDES, extent)  # (T, 2): the step of width and height that holds the triangle
    keys = np.full(shape[0] * shape[1], _EMPTY, np.int64)
    planes = _planes(corners[usable], area[usable], near[usable])
    code = bucket[:, 0] * len(_SIDES) + bucket[:, 1]
    for level in np.unique(code):
        size = (int(_SIDES[level // len(_SIDES)]), int(_SIDES[level % len(_SIDES)]))
        members = np.flatnonzero(code == level)
        chunk = max(1, _FRAGMENTS_AT_ONCE // (size[0] * size[1]))
        for start in range(0, len(members), chunk):
            part = members[start : start + chunk]
            _fill(keys, shape, usable[part], first[part], size, planes[part])
    return _resolve(keys, shape, corners, area, near)


def _planes(corners: Floats, area: Floats, near: Floats) -> Floats:
    """Return (T, 9): the coefficients in x, y and 1 of the second and third weight, and of the inverse depth."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    scale = 1 / np.where(np.abs(area) > 1e-6, area, 1)
    second_x, second_y = (c[:, 1] - a[:, 1]) * scale, -(c[:, 0] - a[:, 0]) * scale
    third_x, third_y = -(b[:, 1] - a[:, 1]) * scale, (b[:, 0] - a[:, 0]) * scale
    second_1 = -(second_x * a[:, 0] + second_y * a[:, 1])
    third_1 = -(third_x * a[:, 0] + third_y * a[:, 1])
    inverse = 1 / np.maximum(near, _NEAREST_M)
    rise_b, rise_c = inverse[:, 1] - inverse[:, 0], inverse[:, 2] - inverse[:, 0]
    depth_x, depth_y = second_x * rise_b + third_x * rise_c, second_y * rise_b + third_y * rise_c
    depth_1 = inverse[:, 0] + second_1 * rise_b + third_1 * rise_c
    columns = [second_x, second_y, second_1, third_x, third_y, third_1, depth_x, depth_y, depth_1]
    return np.stack(columns, axis=1)


def _fill(
    keys: np.ndarray[tuple[int], np.dtype[np.int64]],
    shape: tuple[int, int],
    triangle: Indices,
    first: Indices,
    size: tuple[int, int],
    planes: Floats,
) -> None:
    """Enter the fragments of triangles that fit `size` (width, height) pixels into `keys`."""
    x = (first[:, :1] + np.arange(size[0], dtype=np.float32) + np.float32(0.5))[:, None, :]  # (T, 1, width)
    y = (first[:, 1:] + np.arange(size[1], dtype=np.float32) + np.float32(0.5))[:, :, None]  # (T, height, 1)
    plane = planes[:, :, None, None]
    second = (plane[:, 0] * x + plane[:, 2]) + plane[:, 1] * y
    third = (plane[:, 3] * x + plane[:, 5]) + plane[:, 4] * y
    covered = (second >= 0) & (third >= 0) & (second + third <= 1)
    covered &= (x < shape[1]) & (y < shape[0])
    which, row, column = np.nonzero(covered)
    row, column = row + first[which, 1], column + first[which, 0]
    inverse = planes[which, 6] * (column + 0.5) + planes[which, 7] * (row + 0.5) + planes[which, 8]
    order = ((1 - _NEAREST_M * np.clip(inverse, 0, 1 / _NEAREST_M)) * 2**40).astype(np.int64)
    np.minimum.at(keys, row * shape[1] + column, (order << _TRIANGLE_BITS) | triangle[which])


def _resolve(
    keys: np.ndarray[tuple[int], np.dtype[np.int64]],
    shape: tuple[int, int],
    corners: Floats,
    area: Floats,
    near: Floats,
) -> Visible:
    """Turn the winning keys into weights and depths."""
    pixel = np.flatnonzero(keys != _EMPTY).astype(np.int32)
    triangle = (keys[pixel] & ((1 << _TRIANGLE_BITS) - 1)).astype(np.int32)
    x = (pixel % shape[1]).astype(np.float32) + 0.5
    y = (pixel // shape[1]).astype(np.float32) + 0.5
    seen = corners[triangle]
    a, b, c = seen[:, 0], seen[:, 1], seen[:, 2]
    scale = 1 / area[triangle]
    second = ((x - a[:, 0]) * (c[:, 1] - a[:, 1]) - (y - a[:, 1]) * (c[:, 0] - a[:, 0])) * scale
    third = ((b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0])) * scale
    flat = np.stack([1 - second - third, second, third], axis=1) / near[triangle]
    total = flat.sum(axis=1)
    return Visible(shape, pixel, triangle, flat / total[:, None], 1 / total)
