"""The frames of one camera's clip: empty scene, props and walkers, farthest first."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from fpc_deploy.rendering.arrays import Bytes, Floats
from fpc_deploy.rendering.cameras import Camera
from fpc_deploy.rendering.crop import scene_light
from fpc_deploy.rendering.figure import Figure, draw
from fpc_deploy.rendering.occluders import draw_thing, thing_colour
from fpc_deploy.rendering.raster import rasterise
from fpc_deploy.rendering.sensor import expose
from fpc_deploy.rendering.shading import Folds, Layer, shade
from fpc_deploy.rendering.shadows import cast_shadow, fallen_points
from fpc_deploy.rendering.viewpoint import FRAME_HEIGHT, FRAME_WIDTH, Window
from fpc_deploy.rendering.walk import Walk

_LEAST_INSIDE = 0.35  # of a person's box that must lie within the frame
_LEAST_VISIBLE = 0.12
_NOISE_FIELDS = 6
_WHOLE = Window(0, 0, FRAME_WIDTH, FRAME_HEIGHT, FRAME_HEIGHT, FRAME_WIDTH)


@dataclass(frozen=True)
class Stage:
    """What a camera films: who walks when, and who is who; `props` decides what stands around."""

    camera: Camera
    walks: tuple[Walk, ...]
    identities: dict[int, int]
    props: np.random.Generator


@dataclass(frozen=True)
class Box:
    """A person's box in frame pixels, clipped to the frame; `visibility` is the share of its area that is seen."""

    track: int
    left: float
    top: float
    width: float
    height: float
    visibility: float


@dataclass(frozen=True)
class _Piece:
    """Something drawn, in the rectangle of the frame that starts at (top, left); track 0 is a prop."""

    distance_m: float
    top: int
    left: int
    layer: Layer
    track: int = 0

    @property
    def place(self) -> tuple[slice, slice]:
        """The rectangle, as an index of the frame."""
        rows, columns = self.layer.mask.shape
        return slice(self.top, self.top + rows), slice(self.left, self.left + columns)


def film(stage: Stage, rate: int, noise: np.random.Generator) -> Iterator[tuple[Bytes, list[Box]]]:
    """Yield every frame (540, 960, 3) RGB with the boxes of the people in it."""
    camera = stage.camera
    ground = scene_light(camera, _WHOLE)
    props = _props(stage)
    fields = _noise_fields(camera, noise)
    light = ground.copy()
    for prop in sorted(props, key=lambda piece: -piece.distance_m):
        light[prop.place][prop.layer.mask] = prop.layer.colour[prop.layer.mask]
    scene = _exposed(light, camera, _WHOLE)
    last = max(walk.end_s for walk in stage.walks)
    for index in range(math.ceil(last * rate)):
        figures = [(walk.track, walk.figure(camera, index / rate)) for walk in stage.walks]
        present = [(track, figure) for track, figure in figures if figure is not None]
        picture = scene.copy()
        boxes = _enact(picture, ground, props, present, camera)
        yield _recorded(picture, camera, fields[index % len(fields)], index), boxes


def _enact(
    picture: Bytes, ground: Floats, props: list[_Piece], present: list[tuple[int, Figure]], camera: Camera
) -> list[Box]:
    """Draw the people into `picture` and return their boxes."""
    light = ground.copy()
    pieces: list[tuple[_Piece, Figure]] = []
    for track, figure in present:
        window = _window(figure, camera)
        if window is None:
            continue
        piece = _Piece(
            figure.distance_m, int(window.top), int(window.left), draw(figure, camera, window, float(track)), track
        )
        light[piece.place] = cast_shadow(light[piece.place], figure, camera, window)
        pieces.append((piece, figure))
    owner = np.zeros((FRAME_HEIGHT, FRAME_WIDTH), np.int16)
    for piece in sorted([*(piece for piece, _ in pieces), *props], key=lambda piece: -piece.distance_m):
        light[piece.place][piece.layer.mask] = piece.layer.colour[piece.layer.mask]
        owner[piece.place][piece.layer.mask] = piece.track
    boxes = []
    for piece, figure in pieces:
        rows, columns = piece.layer.mask.shape
        window = Window(piece.left, piece.top, columns, rows, rows, columns)
        picture[piece.place] = _exposed(light[piece.place], camera, window)
        seen = int((owner[piece.place] == piece.track).sum()) / max(1, int(piece.layer.mask.sum()))
        boxes += _boxes(piece.track, figure, seen)
    return boxes


def _window(figure: Figure, camera: Camera) -> Window | None:
    """Return the part of the frame that a figure and its shadow may touch, in whole pixels."""
    left, top, right, bottom = figure.box
    ground, _ = camera.viewpoint.project(fallen_points(figure.mesh.positions[::8], camera))
    soft = 0.12 * (bottom - top)  # how far a shadow's soft edge reaches
    left, right = min(left, float(ground[:, 0].min())) - soft, max(right, float(ground[:, 0].max())) + soft
    top, bottom = min(top, float(ground[:, 1].min())) - soft / 4, max(bottom, float(ground[:, 1].max())) + soft
    low_x, high_x = max(0, math.floor(left)), min(FRAME_WIDTH, math.ceil(right))
    low_y, high_y = max(0, math.floor(top)), min(FRAME_HEIGHT, math.ceil(bottom))
    if high_x - low_x < 8 or high_y - low_y < 8:
        return None
    rows, columns = high_y - low_y, high_x - low_x
    return Window(low_x, low_y, columns, rows, rows, columns)


def _boxes(track: int, figure: Figure, seen: float) -> list[Box]:
    """Return the figure's box, or none where too little of it is within the frame or in sight."""
    left, top, right, bottom = figure.box
    inner = (max(left, 0.0), max(top, 0.0), min(right, float(FRAME_WIDTH)), min(bottom, float(FRAME_HEIGHT)))
    width, height = inner[2] - inner[0], inner[3] - inner[1]
    inside = max(0.0, width) * max(0.0, height) / max(1.0, (right - left) * (bottom - top))
    if inside < _LEAST_INSIDE or seen < _LEAST_VISIBLE:
        return []
    return [Box(track, inner[0], inner[1], width, height, seen * inside)]


def _props(stage: Stage) -> list[_Piece]:
    """Draw the objects that stand in the scene."""
    camera, rng = stage.camera, stage.props
    pieces = []
    for side in (-1, 1):
        thing = draw_thing(rng, camera.indoor)
        while thing.kind in ("umbrella", "corner", "car"):  # held by somebody, or hiding half the scene
            thing = draw_thing(rng, camera.indoor)
        # Nobody walks so near to the lens, so nobody walks through a prop.
        distance = float(rng.uniform(camera.near_m - 0.6, camera.near_m))
        aside = float(side * rng.uniform(0.15, 0.75)) * camera.viewpoint.lateral_room_m(distance)
        mesh = thing.mesh.placed(np.eye(3, dtype=np.float32), [aside, 0, distance])
        screen, depth = camera.viewpoint.project(mesh.positions)
        visible = rasterise(screen, depth, mesh.triangles, (FRAME_HEIGHT, FRAME_WIDTH), both_sides=True)
        layer = shade(mesh, visible, partial(thing_colour, thing), camera.light, Folds(0.0, 0.0))
        pieces.append(_trimmed(distance, layer))
    return pieces


def _trimmed(distance_m: float, layer: Layer) -> _Piece:
    """Cut a layer of the whole frame down to where it holds something."""
    rows, columns = np.flatnonzero(layer.mask.any(axis=1)), np.flatnonzero(layer.mask.any(axis=0))
    if not len(rows):
        return _Piece(distance_m, 0, 0, Layer(layer.colour[:1, :1], layer.mask[:1, :1]))
    top, left = int(rows[0]), int(columns[0])
    place = slice(top, int(rows[-1]) + 1), slice(left, int(columns[-1]) + 1)
    return _Piece(distance_m, top, left, Layer(layer.colour[place], layer.mask[place]))


def _exposed(light: Floats, camera: Camera, window: Window) -> Bytes:
    """Expose the part of the frame that a window shows, at the frame's own size."""
    centre = (
        (window.left + window.width / 2) / FRAME_WIDTH * 2 - 1,
        ((window.top + window.height / 2) / FRAME_HEIGHT * 2 - 1) * FRAME_HEIGHT / FRAME_WIDTH,
    )
    return expose(light, camera.sensor, centre, window.width / FRAME_WIDTH, 1.0)


def _noise_fields(camera: Camera, rng: np.random.Generator) -> list[Floats]:
    """Return a few fields of sensor noise at the camera's own resolution; frames take turns with them."""
    size = _native_size(camera)
    return [
        rng.standard_normal((size[1], size[0], 3), dtype=np.float32) * np.float32(camera.sensor.noise * 0.7)
        for _ in range(_NOISE_FIELDS)
    ]


def _native_size(camera: Camera) -> tuple[int, int]:
    share = max(0.5, camera.sensor.detail)
    return round(FRAME_WIDTH * share), round(FRAME_HEIGHT * share)


def _recorded(picture: Bytes, camera: Camera, noise: Floats, index: int) -> Bytes:
    """Carry a frame through lens and sensor."""
    size = _native_size(camera)
    image = Image.fromarray(picture).resize(size, Image.Resampling.BOX)
    image = image.filter(ImageFilter.GaussianBlur(camera.sensor.blur_px * size[0] / FRAME_WIDTH))
    shifted = np.roll(noise, (37 * index) % 211, axis=1)
    noisy = np.clip(np.asarray(image, np.float32) + shifted, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(noisy).resize((FRAME_WIDTH, FRAME_HEIGHT), Image.Resampling.BILINEAR))
