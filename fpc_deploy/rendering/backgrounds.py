"""What stands behind the people of a camera: floor, walls, shelves, shop fronts, passers-by."""

import numpy as np

from fpc_deploy.rendering.arrays import Colour, Floats
from fpc_deploy.rendering.cameras import Camera
from fpc_deploy.rendering.palette import contrast
from fpc_deploy.rendering.palette import upper as bright
from fpc_deploy.rendering.seeds import generator
from fpc_deploy.rendering.viewpoint import FRAME_HEIGHT, FRAME_WIDTH

_HAZE_M = 70.0


def paint_background(camera: Camera) -> Floats:
    """Paint the empty scene of a camera: (540, 960, 3) linear light."""
    rng = generator(camera.seed, "background", camera.number)
    rays = camera.viewpoint.rays()
    height = np.float32(camera.viewpoint.height_m)
    wall_z = np.float32(camera.far_m + rng.uniform(2.6, 5.0))
    half_width = np.float32(rng.uniform(4.5, 9.0))
    picture = np.empty((FRAME_HEIGHT, FRAME_WIDTH, 3), np.float32)
    down = np.where(rays[..., 1] < -1e-3, -height / np.minimum(rays[..., 1], -1e-3), np.float32(1e4))
    away = wall_z / np.maximum(rays[..., 2], 1e-3)
    aside = half_width / np.maximum(np.abs(rays[..., 0]), 1e-3)
    nearest = np.minimum(np.minimum(down, away), aside)
    points = rays * nearest[..., None] + np.array([0, height, 0], np.float32)
    floor, wall = nearest == down, (nearest == away) & (nearest != down)
    sides = ~(floor | wall)
    picture[floor] = _floor(points[floor], camera.indoor, rng)
    for place, axis, seed in (
        (wall, 0, 1),
        (sides & (points[..., 0] < 0), 2, 2),
        (sides & (points[..., 0] >= 0), 2, 3),
    ):
        if place.any():
            surface_rng = generator(camera.seed, "wall", camera.number, seed)
            picture[place] = _wall(points[place][:, axis], points[place][:, 1], camera.indoor, surface_rng)
    return _lit(picture, points, floor, nearest, camera, wall_z, half_width)


def _lit(
    picture: Floats,
    points: Floats,
    floor: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    distance: Floats,
    camera: Camera,
    wall_z: np.float32,
    half_width: np.float32,
) -> Floats:
    """Light a painted scene: less in the corners, patches of shade on the ground, haze far away."""
    light = camera.light
    key, sky = np.array(light.key, np.float32), np.array(light.sky, np.float32)
    lit = np.where(floor[..., None], key * np.float32(light.towards[1]) + sky, 0.45 * key + 0.75 * sky)
    edge = np.minimum(wall_z - points[..., 2], half_width - np.abs(points[..., 0]))
    edge = np.where(floor, np.maximum(edge, 0), np.maximum(points[..., 1], 0))
    lit = lit * (1 - 0.45 * np.exp(-edge / 0.35))[..., None]
    patch = np.sin(0.7 * points[..., 0] + 1.3 * np.sin(0.5 * points[..., 2] + camera.number)) + np.sin(
        0.45 * points[..., 2] + camera.seed % 7
    )
    lit = lit * (1 + 0.1 * patch * floor)[..., None]
    haze = (1 - np.exp(-distance / _HAZE_M))[..., None] * (0.0 if camera.indoor else 1.0)
    return np.asarray((picture * lit * (1 - haze) + haze * 0.45).astype(np.float32), np.float32)


def _grain(x: Floats, y: Floats, seed: float) -> Floats:
    """Return speckle of about -1 to 1 that sticks to a surface."""
    wave = np.sin(x * 127.1 + y * 311.7 + seed) * np.float32(43758.547)
    return ((wave - np.floor(wave)) * 2 - 1).astype(np.float32)


def _cell(x: Floats, y: Floats, seed: float) -> Floats:
    """Return one random number, 0 to 1, for each whole-numbered cell."""
    wave = np.sin(np.floor(x) * 12.9898 + np.floor(y) * 78.233 + seed) * 43758.5453
    return np.asarray(wave - np.floor(wave), np.float32)


def _flat(colour: Colour | tuple[float, ...], count: int) -> Floats:
    return np.repeat(np.array(colour, np.float32)[None], count, 0)


def _floor(points: Floats, indoor: bool, rng: np.random.Generator) -> Floats:
    x, z = points[:, 0], points[:, 2]
    grey = float(rng.uniform(0.12, 0.5))
    base = np.array([grey * rng.uniform(0.95, 1.15), grey, grey * rng.uniform(0.8, 1.05)], np.float32)
    style = str(rng.choice(["tiles", "planks", "plain"] if indoor else ["paving", "asphalt", "grass_edge", "asphalt"]))
    seed = float(rng.uniform(0, 50))
    colour = _flat(tuple(base), len(x))
    tint = np.ones(len(x), np.float32)
    if style in ("tiles", "paving"):
        size = rng.uniform(0.4, 0.9)
        tint += 0.16 * (_cell(x / size, z / size, seed) - 0.5)
        joint = np.minimum((x / size) % 1, (z / size) % 1) < 0.04
        tint[joint] *= 0.72
    elif style == "planks":
        tint += 0.35 * (_cell(x / 0.14, z / 1.4 + np.floor(x / 0.14) * 0.37, seed) - 0.5)
    elif style == "asphalt":
        colour *= 0.6
        line = np.abs((x + seed) % rng.uniform(2.5, 5) - 0.6) < 0.07
        colour[line & ((z % 3) < 1.8)] = 0.6
    elif style == "grass_edge":
        grass = x > rng.uniform(0.5, 2.5)
        colour[grass] = np.array([0.09, 0.16, 0.05], np.float32)
        tint += 0.3 * grass * _grain(np.floor(x * 20), np.floor(z * 20), seed)
    tint += 0.08 * _grain(np.floor(x * 45), np.floor(z * 45), seed) + 0.06 * np.sin(1.7 * x + 2 * np.sin(z))
    return colour * tint[:, None]


def _wall(u: Floats, v: Floats, indoor: bool, rng: np.random.Generator) -> Floats:
    """Paint a wall at metres `u` along it and `v` above the ground."""
    styles = (
        ["shelves", "shelves", "panels", "posters", "glass"]
        if indoor
        else ["brick", "shopfront", "windows", "hedge", "posters"]
    )
    style, seed = str(rng.choice(styles)), float(rng.uniform(0, 50))
    grey = float(rng.uniform(0.2, 0.6))
    colour = _flat((grey * rng.uniform(0.9, 1.15), grey, grey * rng.uniform(0.8, 1.1)), len(u))
    painter = {"shelves": _shelves, "brick": _brick, "hedge": _hedge}.get(style, _openings)
    colour = painter(colour, u, v, seed, rng)
    colour *= (1 + 0.06 * _grain(np.floor(u * 30), np.floor(v * 30), seed))[:, None]
    if style != "hedge":  # doors
        door = (np.abs((u + seed) % rng.uniform(5, 9) - 1.2) < 0.5) & (v < 2.1)
        colour[door] = np.array(contrast(rng), np.float32) * 0.8 + 0.03
        edge = (np.abs(np.abs((u + seed) % 7 - 1.2) - 0.53) < 0.03) & (v < 2.15)
        colour[edge] *= 0.5
    return np.clip(colour, 0.01, 1)


def _shelves(colour: Floats, u: Floats, v: Floats, seed: float, rng: np.random.Generator) -> Floats:
    rise, width = rng.uniform(0.32, 0.48), rng.uniform(0.1, 0.3)
    palette_ = np.array([bright(rng) for _ in range(24)], np.float32)
    pick = _cell(u / width, v / rise, seed)
    tall = 0.45 + 0.45 * _cell(u / width * 1.0, v / rise + 100, seed)
    level = (v / rise) % 1
    goods = (level < tall) & (v < rise * 5)
    shelf = level > 0.93
    result = np.where(goods[:, None], palette_[(pick * 24).astype(np.int32) % 24], 0.06)
    label = goods & (np.abs(level - tall * 0.5) < 0.1)
    result[label] = result[label] * 0.4 + 0.4 * _cell(u / width, v / rise + 50, seed)[label][:, None]
    result[((u / width) % 1) < 0.06] *= 0.5
    result[shelf] = 0.5
    above = v >= rise * 5
    result[above] = colour[above]
    return result.astype(np.float32)


def _brick(colour: Floats, u: Floats, v: Floats, seed: float, rng: np.random.Generator) -> Floats:
    row = np.floor(v / 0.12)
    shifted = u / 0.3 + 0.5 * (row % 2)
    warm = np.array([0.3, 0.13, 0.09], np.float32) * rng.uniform(0.6, 1.6)
    result = warm * (0.75 + 0.5 * _cell(shifted, row, seed))[:, None]
    mortar = ((v / 0.12) % 1 < 0.12) | (shifted % 1 < 0.05)
    result[mortar] = 0.3
    return result.astype(np.float32)


def _hedge(colour: Floats, u: Floats, v: Floats, seed: float, rng: np.random.Generator) -> Floats:
    leaf = _cell(u * 14, v * 14, seed) * 0.6 + _cell(u * 33, v * 33, seed) * 0.6
    green = np.array([0.07, 0.13, 0.04], np.float32) * rng.uniform(0.6, 1.6)
    top = v > rng.uniform(1.5, 4) + 0.15 * np.sin(5 * u)
    result = green * (0.3 + leaf)[:, None]
    result[top] = colour[top] * 1.3
    return result.astype(np.float32)


def _openings(colour: Floats, u: Floats, v: Floats, seed: float, rng: np.random.Generator) -> Floats:
    """Windows, shop fronts, posters or glass panes on a plain wall."""
    pitch, width = rng.uniform(1.0, 3.0), rng.uniform(0.55, 0.9)
    low, high = rng.uniform(0.0, 1.2), rng.uniform(1.8, 3.0)
    palette_ = np.array([bright(rng) for _ in range(12)], np.float32)
    inside = ((u / pitch) % 1 < width) & (v > low) & (v < high)
    pane = _cell(u / pitch, np.zeros_like(u), seed)
    fill = palette_[(pane * 12).astype(np.int32) % 12]
    goods = _shelves(colour, u, v - low, seed, rng)  # a shop's display, dim behind the glass
    block = _cell(u / (0.2 + 0.3 * pane), v / (0.12 + 0.3 * pane), seed + 3)
    poster = fill * (0.35 + 0.65 * (block > 0.55))[:, None] + 0.05 * (block < 0.2)[:, None]
    sheen = 0.04 + 0.12 * np.clip((v - low) / (high - low), 0, 1) + 0.08 * (np.sin(1.1 * u + 2.5 * v) > 0.6)
    glass = np.repeat(sheen[:, None], 3, 1) * np.array([0.9, 1.0, 1.1], np.float32)
    choice = (pane * 7.3) % 1
    mixed = np.where(
        (choice < 0.4)[:, None], glass, np.where((choice < 0.7)[:, None], poster, 0.6 * goods + 0.4 * glass)
    )
    result = np.where(inside[:, None], mixed, colour)
    skirting = v < 0.14
    result[skirting] *= 0.55
    stripe = (v > high + 0.2) & (v < high + 0.7)
    result[stripe] = palette_[0]
    return result.astype(np.float32)
