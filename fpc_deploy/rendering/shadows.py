"""The shadow a person casts on the ground."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fpc_deploy.rendering.arrays import Floats
from fpc_deploy.rendering.cameras import Camera
from fpc_deploy.rendering.figure import Figure
from fpc_deploy.rendering.viewpoint import Window

_COARSE = 4  # shadows are soft: a quarter of the resolution is enough
_POINTS = 260


def cast_shadow(light: Floats, figure: Figure, camera: Camera, window: Window) -> Floats:
    """Darken the ground (rows, columns, 3) where the figure stands in the key light, and under its feet."""
    positions = figure.mesh.positions[:: max(1, len(figure.mesh.positions) // _POINTS)]
    fallen = fallen_points(positions, camera)
    feet = positions[positions[:, 1] < 0.12] * np.array([1, 0, 1], np.float32)
    soft = _stain(fallen, 0.055, 1.3, camera, window)
    contact = _stain(feet, 0.09, 2.2, camera, window) if len(feet) else np.zeros_like(soft)
    dark = 1 - camera.light.shadow * soft - 0.4 * contact
    return np.asarray(light * np.clip(dark, 0.25, 1)[..., None], np.float32)


def fallen_points(positions: Floats, camera: Camera) -> Floats:
    """Carry points (N, 3) along the key light down to the ground."""
    towards = camera.light.towards
    fallen = positions.copy()
    fallen[:, 0] -= positions[:, 1] * towards[0] / towards[1]
    fallen[:, 2] -= positions[:, 1] * towards[2] / towards[1]
    fallen[:, 1] = 0
    return fallen


def _stain(points: Floats, radius_m: float, blur: float, camera: Camera, window: Window) -> Floats:
    """Return (rows, columns) 0 to 1: discs around points of the ground, blurred."""
    size = (window.columns // _COARSE, window.rows // _COARSE)
    screen, depth = camera.viewpoint.project(points)
    pixels = window.to_pixels(screen) / _COARSE
    reach = camera.viewpoint.focal_px / np.maximum(depth, 0.5) * radius_m * size[1] / window.height
    picture = Image.new("L", size)
    pen = ImageDraw.Draw(picture)
    for (x, y), half in zip(pixels.tolist(), reach.tolist(), strict=True):
        if -half < x < size[0] + half and -half < y < size[1] + half:
            pen.ellipse((x - half, y - half * 0.6, x + half, y + half * 0.6), fill=255)
    picture = picture.filter(ImageFilter.GaussianBlur(blur))
    full = picture.resize((window.columns, window.rows), Image.Resampling.BILINEAR)
    return np.asarray(full, np.float32) / np.float32(255)
