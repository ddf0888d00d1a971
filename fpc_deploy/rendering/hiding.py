"""Hiding a wanted share of a person behind an object or another person, and measuring the share."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from fpc_deploy.rendering.arrays import Floats, Mask
from fpc_deploy.rendering.cameras import Camera
from fpc_deploy.rendering.figure import FOLDS, Figure, stand
from fpc_deploy.rendering.mesh import Mesh
from fpc_deploy.rendering.occluders import draw_thing, thing_colour
from fpc_deploy.rendering.people import draw_person
from fpc_deploy.rendering.pose import draw_pose
from fpc_deploy.rendering.raster import Visible, rasterise
from fpc_deploy.rendering.shading import ColourOf, Folds, Layer, shade
from fpc_deploy.rendering.surface import person_colour
from fpc_deploy.rendering.viewpoint import Window

_STRANGERS = 100_000
_STEP = 8  # pixels between tried places
_TRIES = 6
_TOLERANCE = 0.04


@dataclass(frozen=True)
class Cover:
    """What hides a person: its picture in the crop's window, its name, and the share it hides."""

    layer: Layer | None
    kind: str
    hidden: float


@dataclass(frozen=True)
class _Candidate:
    kind: str
    mesh: Mesh
    screen: Floats
    depth: Floats
    colour_of: ColourOf
    folds: Folds
    both_sides: bool


def hide(
    person: Mask,
    figure: Figure,
    camera: Camera,
    window: Window,
    rng: np.random.Generator,
    kind: str,
    low: float,
    high: float,
) -> Cover:
    """Put something before a person so that between `low` and `high` of its area is hidden.

    Args:
        person: (H, W) where the person is, unhidden.
        figure: The person.
        camera: Which sees it.
        window: Of the crop.
        rng: Decides what hides it, and where.
        kind: `none`, `object` or `person`.
        low: Least share of the area.
        high: Greatest share.

    Returns:
        The cover. When no try reaches the range, the nearest one found.
    """
    area = int(person.sum())
    if kind == "none" or not area:
        return Cover(None, "none", 0.0)
    target = float(rng.uniform(low, high))
    best: Cover | None = None
    for _ in range(_TRIES):
        candidate = _passer(figure, camera, window, rng) if kind == "person" else _object(figure, camera, window, rng)
        shift = _best_shift(person, candidate, target, rng)
        if shift is None:
            continue
        moved = (candidate.screen + np.array([shift, 0], np.float32)).astype(np.float32)
        visible = rasterise(moved, candidate.depth, candidate.mesh.triangles, person.shape, candidate.both_sides)
        hidden = float(person.ravel()[visible.pixel].sum()) / area
        if best is None or abs(hidden - target) < abs(best.hidden - target):
            layer = shade(candidate.mesh, visible, candidate.colour_of, camera.light, candidate.folds)
            best = Cover(layer, candidate.kind, hidden)
        if low <= best.hidden <= high and abs(best.hidden - target) < 0.12:
            break
    return best or Cover(None, "none", 0.0)


def _passer(figure: Figure, camera: Camera, window: Window, rng: np.random.Generator) -> _Candidate:
    stranger = draw_person(int(rng.integers(_STRANGERS)), int(rng.integers(_STRANGERS)), "stranger")
    distance = max(1.6, figure.distance_m - float(rng.uniform(0.35, 1.1)))
    front = stand(
        stranger, draw_pose(rng), camera, (_abreast(figure, distance), distance), float(rng.uniform(-np.pi, np.pi))
    )
    colour = partial(person_colour, stranger)
    screen = window.to_pixels(front.screen)
    return _Candidate("person", front.mesh, screen, front.depth, colour, Folds(FOLDS, float(rng.uniform(0, 6))), False)


def _object(figure: Figure, camera: Camera, window: Window, rng: np.random.Generator) -> _Candidate:
    thing = draw_thing(rng, camera.indoor)
    nearer = rng.uniform(0.5, 1.6) if thing.kind != "umbrella" else 0.4
    distance = max(1.8, figure.distance_m - float(nearer) - (0.5 if thing.kind == "car" else 0.0))
    mesh = thing.mesh.placed(np.eye(3, dtype=np.float32), [_abreast(figure, distance), 0, distance])
    screen, depth = camera.viewpoint.project(mesh.positions)
    return _Candidate(
        thing.kind, mesh, window.to_pixels(screen), depth, partial(thing_colour, thing), Folds(0.0, 0.0), True
    )


def _abreast(figure: Figure, distance: float) -> float:
    """Return metres to the right at which something at `distance` stands in the line of sight to the figure."""
    return float(figure.mesh.positions[:, 0].mean()) / figure.distance_m * distance


def _best_shift(person: Mask, candidate: _Candidate, target: float, rng: np.random.Generator) -> float | None:
    """Return how far to move a candidate sideways, in pixels, to hide about `target`; `None` where none will do."""
    rows, columns = person.shape
    margin = columns
    # A quarter of the resolution is enough to choose a place.
    small = ((candidate.screen + np.array([margin, 0], np.float32)) / 4).astype(np.float32)
    shape = (rows // 4, (columns + 2 * margin) // 4)
    visible: Visible = rasterise(small, candidate.depth, candidate.mesh.triangles, shape, candidate.both_sides)
    covered = np.zeros(shape[0] * shape[1], np.bool_)
    covered[visible.pixel] = True
    covered = covered.reshape(shape)
    body = person[2::4, 2::4]
    body = body[: shape[0], : columns // 4].astype(np.float32)
    total = max(1.0, float(body.sum()))
    offsets = np.arange(0, 2 * margin // 4, _STEP // 4)
    wide = np.lib.stride_tricks.sliding_window_view(covered, body.shape[1], axis=1)[:, offsets]
    shares = np.einsum("rsc,rc->s", wide.astype(np.float32), body) / total
    shifts = margin - offsets * 4
    error = np.abs(shares - target)
    if error.min() > 3 * _TOLERANCE:
        return None
    near = np.flatnonzero(error <= max(_TOLERANCE, float(error.min())))
    return float(shifts[int(rng.choice(near))])
