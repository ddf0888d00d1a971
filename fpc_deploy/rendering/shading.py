"""Light on what the rasteriser saw: colours, folds, shade in the corners."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fpc_deploy.rendering.arrays import Floats, Indices, Mask, box_blur
from fpc_deploy.rendering.cameras import Light
from fpc_deploy.rendering.mesh import Mesh
from fpc_deploy.rendering.raster import Visible

ColourOf = Callable[[int, Floats], Floats]
"""Gives the colour (N, 3) of a material number at texture coordinates (N, 2)."""


@dataclass(frozen=True)
class Layer:
    """One thing, drawn alone: colour (H, W, 3) in linear light, and where it is (H, W)."""

    colour: Floats
    mask: Mask


@dataclass(frozen=True)
class Folds:
    """How crumpled a surface is; `phase` differs from picture to picture as cloth does."""

    strength: float
    phase: float


def shade(mesh: Mesh, visible: Visible, colour_of: ColourOf, light: Light, folds: Folds) -> Layer:
    """Colour and light every covered pixel of a mesh."""
    rows, columns = visible.shape
    corners = mesh.triangles[visible.triangle]
    weights = visible.weights
    mixed = _blend(np.concatenate([mesh.normals, mesh.uv], axis=1), corners, weights)
    normals, uv = mixed[:, :3], mixed[:, 3:]
    lit = _light(normals, uv, light, folds)
    lit *= _corner_shade(visible)[:, None]
    colour = np.empty((len(visible.pixel), 3), np.float32)
    kind = mesh.materials[visible.triangle]
    for material in np.unique(kind):
        members = np.flatnonzero(kind == material)
        colour[members] = colour_of(int(material), uv[members])
    picture = np.zeros((rows * columns, 3), np.float32)
    picture[visible.pixel] = colour * lit
    mask = np.zeros(rows * columns, np.bool_)
    mask[visible.pixel] = True
    return Layer(picture.reshape(rows, columns, 3), mask.reshape(rows, columns))


def _blend(values: Floats, corners: Indices, weights: Floats) -> Floats:
    mixed: Floats = values[corners[:, 0]] * weights[:, :1]
    mixed += values[corners[:, 1]] * weights[:, 1:2]
    mixed += values[corners[:, 2]] * weights[:, 2:]
    return mixed


def _light(normals: Floats, uv: Floats, light: Light, folds: Folds) -> Floats:
    """Return (N, 3): light that falls on each pixel, the cloth's folds included."""
    length = np.sqrt((normals * normals).sum(axis=1))
    up = normals[:, 1] / np.maximum(length, 1e-6)
    facing = (normals @ np.array(light.towards, np.float32)) / np.maximum(length, 1e-6)
    angle, along = uv[:, 0], uv[:, 1]
    wave = np.sin(23 * along + 2.2 * angle + folds.phase + 1.7 * np.sin(1.3 * angle + folds.phase))
    wave += 0.7 * np.sin(9 * along - 3.1 * angle + 2 * folds.phase)
    crease = np.float32(folds.strength) * wave
    direct = np.clip(0.85 * facing + 0.15 + crease, 0, None)
    above = np.clip(0.5 + 0.5 * up + 0.6 * crease, 0, None)
    lit = direct[:, None] * np.array(light.key, np.float32) + above[:, None] * np.array(light.sky, np.float32)
    lit += np.clip(0.5 - 0.5 * up, 0, 1)[:, None] * np.array(light.bounce, np.float32)
    return np.asarray(lit.astype(np.float32), np.float32)


def _corner_shade(visible: Visible) -> Floats:
    """Return (N,): darker where the surroundings stand nearer to the lens, as under an arm or between the legs."""
    rows, columns = visible.shape
    if not len(visible.pixel):
        return np.ones(0, np.float32)
    far = np.float32(visible.depth.max())
    depth = np.full(rows * columns, far, np.float32)
    depth[visible.pixel] = visible.depth
    blurred = box_blur(depth.reshape(rows, columns), max(1, rows // 42)).ravel()
    behind = visible.depth - blurred[visible.pixel]
    return np.asarray(1 - np.clip(behind * 5.0, 0, 0.5), np.float32)
