"""Triangle meshes, and the three shapes from which everything is built: tubes, boxes and scattered leaves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from fpc_deploy.rendering.arrays import Floats, Indices


@dataclass(frozen=True)
class Mesh:
    """Triangles with normals and texture coordinates.

    Attributes:
        positions: (V, 3) metres.
        normals: (V, 3) unit vectors that point outwards.
        uv: (V, 2) texture coordinates; for a tube the angle around it (radians, 0 in front) and metres along it.
        triangles: (T, 3) indices of vertices.
        materials: (T,) number of the material of each triangle.
    """

    positions: Floats
    normals: Floats
    uv: Floats
    triangles: Indices
    materials: Indices

    def placed(self, rotation: Floats, offset: ArrayLike) -> "Mesh":
        """Return the mesh turned by `rotation` (3, 3) and then moved by `offset` (3,) metres."""
        positions = self.positions @ rotation.T + np.asarray(offset, np.float32)
        return replace(self, positions=positions, normals=self.normals @ rotation.T)


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Put meshes together into one."""
    offsets = np.cumsum([0, *(len(mesh.positions) for mesh in meshes[:-1])])
    triangles = [mesh.triangles + np.int32(offset) for mesh, offset in zip(meshes, offsets, strict=True)]
    return Mesh(
        np.concatenate([mesh.positions for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
        np.concatenate(triangles),
        np.concatenate([mesh.materials for mesh in meshes]),
    )


def turn(axis: int, angle: float) -> Floats:
    """Return the (3, 3) rotation about axis 0 (x), 1 (y) or 2 (z) by `angle` radians."""
    matrix = np.eye(3, dtype=np.float32)
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


@lru_cache(maxsize=64)
def _grid(rings: int, segments: int) -> Indices:
    row, column = np.meshgrid(np.arange(rings - 1), np.arange(segments), indexing="ij")
    a = (row * (segments + 1) + column).ravel()
    b, c, d = a + 1, a + segments + 1, a + segments + 2
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)]).astype(np.int32)


@lru_cache(maxsize=16)
def _circle(segments: int) -> tuple[Floats, Floats, Floats]:
    angle = np.linspace(-np.pi, np.pi, segments + 1).astype(np.float32)
    return angle, np.sin(angle), np.cos(angle)


def _rise(values: Floats) -> Floats:
    """Return what `np.gradient` does along the first axis, several times faster on few rows."""
    rise = np.empty_like(values)
    rise[1:-1] = (values[2:] - values[:-2]) * np.float32(0.5)
    rise[0], rise[-1] = values[1] - values[0], values[-1] - values[-2]
    return rise


def _unit(vectors: Floats) -> Floats:
    squares = (vectors * vectors).sum(axis=-1, keepdims=True)
    return np.asarray(vectors / np.sqrt(np.maximum(squares, np.float32(1e-12))), np.float32)


def _cross(a: Floats, b: Floats) -> Floats:
    product = np.empty(np.broadcast_shapes(a.shape, b.shape), np.float32)
    product[..., 0] = a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1]
    product[..., 1] = a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2]
    product[..., 2] = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product


_LATERAL: Floats = np.array([1.0, 0.0, 0.0], np.float32)


def tube(
    centres: ArrayLike,
    radii: ArrayLike,
    material: int,
    segments: int = 10,
    lateral: Floats = _LATERAL,
    squareness: float = 0.0,
    push: Floats | None = None,
) -> Mesh:
    """Sweep an ellipse along a line that runs downwards (or, for a foot, forwards).

    Args:
        centres: (M, 3) metres.
        radii: (M, 2) half width and half depth, metres.
        material: Number of the material.
        segments: Sides of the ellipse.
        lateral: (3,) the direction of the half width; must not run along the tube.
        squareness: 0 is an ellipse, 1 a rounded rectangle.
        push: (M, segments + 1) factor on the radius of each vertex.
    """
    line, radius = np.asarray(centres, np.float32), np.asarray(radii, np.float32)
    step = _rise(line)
    tangent = _unit(step)
    front = _unit(_cross(tangent, lateral))
    side = _cross(front, tangent)
    angle, sine, cosine = _circle(segments)
    swell = 1 + np.float32(squareness * 0.7) * np.abs(sine * cosine)
    factor = swell[None] if push is None else push * swell
    across = radius[:, :1] * sine * factor  # (M, S + 1)
    ahead = radius[:, 1:] * cosine * factor
    positions = line[:, None] + across[..., None] * side[:, None] + ahead[..., None] * front[:, None]
    pieces = np.sqrt(((line[1:] - line[:-1]) ** 2).sum(1))
    length = np.zeros(len(line), np.float32)
    np.cumsum(pieces, out=length[1:])
    slope = _rise(radius.mean(1)) / np.maximum(np.sqrt((step * step).sum(1)), 1e-4)
    safe = np.maximum(radius, 1e-4)
    mean = safe.mean(1)[:, None]
    normals = _unit(
        (mean * sine / safe[:, :1])[..., None] * side[:, None]
        + (mean * cosine / safe[:, 1:])[..., None] * front[:, None]
        - np.minimum(np.maximum(slope, -3), 3)[:, None, None] * tangent[:, None]
    )
    uv = np.empty((len(line), segments + 1, 2), np.float32)
    uv[..., 0], uv[..., 1] = angle, length[:, None]
    triangles = _grid(len(line), segments)
    return Mesh(
        positions.reshape(-1, 3).astype(np.float32),
        normals.reshape(-1, 3).astype(np.float32),
        uv.reshape(-1, 2),
        triangles,
        np.full(len(triangles), material, np.int32),
    )


def ball(centre: ArrayLike, radii: ArrayLike, material: int, rings: int = 7, segments: int = 10) -> Mesh:
    """Build an ellipsoid from `radii` (3,) metres along x, y and z around `centre` (3,)."""
    middle, (half_x, half_y, half_z) = np.asarray(centre, np.float32), np.asarray(radii, np.float32)
    polar = np.linspace(0.04, np.pi - 0.04, rings)
    centres = middle + np.stack([0 * polar, half_y * np.cos(polar), 0 * polar], 1)
    profile = np.sin(polar)
    return tube(centres, np.stack([half_x * profile, half_z * profile], 1), material, segments)


_FACES = np.array(
    [[0, 0, 1], [0, 0, -1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], np.float32
)  # front, back, sides, top, bottom
_FORTH, _BACK = [[0, 1, 2], [1, 3, 2]], [[0, 2, 1], [1, 2, 3]]
_BOX_TRIANGLES = np.array([_FORTH, _BACK, _BACK, _FORTH, _BACK, _FORTH], np.int32)


def box(centre: ArrayLike, size: ArrayLike, material: int) -> Mesh:
    """Build a box of `size` (3,) metres; each face has uv in metres from its own middle."""
    half = np.asarray(size, np.float32) / 2
    positions, normals, uv = [], [], []
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]], np.float32)
    for face in _FACES:
        axis = int(np.argmax(np.abs(face)))
        first, second = [(2, 1), (0, 2), (0, 1)][axis]
        points = np.zeros((4, 3), np.float32)
        points[:, first], points[:, second] = corners[:, 0] * half[first], corners[:, 1] * half[second]
        points[:, axis] = face[axis] * half[axis]
        positions.append(points)
        normals.append(np.repeat(face[None], 4, 0))
        uv.append(points[:, [first, second]])
    start = np.arange(6, dtype=np.int32)[:, None, None] * 4
    triangles = np.ascontiguousarray((start + _BOX_TRIANGLES).reshape(-1, 3))
    offset = np.asarray(centre, np.float32)
    return Mesh(
        np.concatenate(positions) + offset,
        np.concatenate(normals),
        np.concatenate(uv),
        triangles,
        np.full(len(triangles), material, np.int32),
    )


def leaves(centres: Floats, size_m: float, material: int, rng: np.random.Generator) -> Mesh:
    """Scatter small leaf-shaped pairs of triangles that face anywhere; uv is a random shade and the height."""
    count = len(centres)
    along = _unit(rng.normal(size=(count, 3)).astype(np.float32)) * np.float32(size_m)
    across = _unit(_cross(along, rng.normal(size=(count, 3)).astype(np.float32))) * np.float32(size_m * 0.45)
    corners = np.stack([centres - along, centres + across, centres + along, centres - across], 1)
    normal = _unit(_cross(along, across) + np.array([0, 0.02 * size_m, 0], np.float32))
    start = np.arange(count, dtype=np.int32)[:, None, None] * 4
    triangles = (start + np.array([[0, 1, 2], [0, 2, 3]], np.int32)).reshape(-1, 3)
    uv = np.stack([rng.random(count).astype(np.float32), centres[:, 1]], 1)
    return Mesh(
        corners.reshape(-1, 3).astype(np.float32),
        np.repeat(normal, 4, 0).astype(np.float32),
        np.repeat(uv, 4, 0).astype(np.float32),
        triangles,
        np.full(len(triangles), material, np.int32),
    )
