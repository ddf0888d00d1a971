"""The rasteriser against cases that can be worked out by hand."""

import numpy as np
import pytest

from fpc_deploy.rendering.arrays import Floats, Indices
from fpc_deploy.rendering.mesh import ball, box, join, tube
from fpc_deploy.rendering.raster import rasterise

TRIANGLE: Indices = np.array([[0, 1, 2]], np.int32)


def square(left: float, size: float) -> Floats:
    corners = [[left, 0], [left + size, 0], [left + size, size], [left, size]]
    return np.array(corners, np.float32)


def test_a_square_covers_its_pixels_once() -> None:
    visible = rasterise(square(2, 6), np.ones(4, np.float32), np.array([[0, 1, 2], [0, 2, 3]], np.int32), (16, 16))
    rows, columns = np.divmod(visible.pixel, 16)
    assert len(visible.pixel) == 36
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 5, 2, 7)


def test_the_nearer_triangle_wins() -> None:
    screen = np.concatenate([square(0, 8), square(4, 8)])
    depth = np.repeat(np.array([2.0, 1.0], np.float32), 4)
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], np.int32)
    visible = rasterise(screen, depth, triangles, (8, 12))
    columns = visible.pixel % 12
    assert np.array_equal(visible.triangle >= 2, columns >= 4)


def test_weights_are_correct_in_perspective() -> None:
    screen = np.array([[0, 0], [100, 0], [0, 100]], np.float32)
    visible = rasterise(screen, np.array([1.0, 3.0, 1.0], np.float32), TRIANGLE, (100, 100))
    middle = int(np.flatnonzero(visible.pixel == 50)[0])  # x = 50.5, y = 0.5
    # Halfway on the screen the inverse depth is halved between 1 and 1/3.
    assert visible.depth[middle] == pytest.approx(1.5, rel=0.02)
    assert visible.weights[middle, 1] == pytest.approx(0.25, abs=0.01)


def test_triangles_that_face_away_are_left_out() -> None:
    screen = np.array([[0, 0], [0, 9], [9, 0]], np.float32)
    depth = np.ones(3, np.float32)
    assert len(rasterise(screen, depth, TRIANGLE, (9, 9)).pixel) == 0
    assert len(rasterise(screen, depth, TRIANGLE, (9, 9), both_sides=True).pixel) > 30


def test_nothing_behind_the_lens_is_drawn() -> None:
    screen = np.array([[0, 0], [9, 0], [0, 9]], np.float32)
    assert len(rasterise(screen, np.array([1, 1, -1], np.float32), TRIANGLE, (9, 9)).pixel) == 0


def test_shapes_are_wound_outwards() -> None:
    shapes = [
        tube([[0.0, 1.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]], np.full((3, 2), 0.1), 0),
        ball([0, 0, 0], [1, 2, 3], 0),
        box([1, 2, 3], [1, 2, 3], 0),
    ]
    mesh = join(shapes)
    a, b, c = (mesh.positions[mesh.triangles[:, corner]] for corner in range(3))
    facing = (np.cross(b - a, c - a) * mesh.normals[mesh.triangles].mean(axis=1)).sum(axis=1)
    assert (facing > 0).all()
