"""One detector's crop of one person, with what hides it, as one camera sees it."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from fpc_deploy.rendering.arrays import Bytes, Floats, Mask, linear_image
from fpc_deploy.rendering.cameras import Camera
from fpc_deploy.rendering.figure import Figure, draw, stand
from fpc_deploy.rendering.furnishing import furnished_scene
from fpc_deploy.rendering.hiding import hide
from fpc_deploy.rendering.people import Person, draw_person
from fpc_deploy.rendering.pose import Pose, draw_pose
from fpc_deploy.rendering.sensor import degrade, expose, halve
from fpc_deploy.rendering.shadows import cast_shadow
from fpc_deploy.rendering.viewpoint import FRAME_HEIGHT, FRAME_WIDTH, Window

_SUPERSAMPLING = 2
_PASSER_SHARE = 0.3  # of crops that show somebody behind the person
_STRANGERS = 100_000


@dataclass(frozen=True)
class Occlusion:
    """What should hide a person.

    Attributes:
        kind: `none`, `object` or `person`.
        low, high: Share of the person's area in the crop that it should hide.
    """

    kind: str = "none"
    low: float = 0.2
    high: float = 0.7


@dataclass(frozen=True)
class Crop:
    """A finished crop.

    Attributes:
        image: (H, W, 3) RGB.
        mask: (H, W) where the person is seen.
        hidden: Share of the person's area within the crop that something in front covers.
        cover: What covers it: `none`, `person` or the name of an object.
        heading: Radians; 0 faces the camera.
    """

    image: Bytes
    mask: Mask
    hidden: float
    cover: str
    heading: float


@lru_cache(maxsize=128)
def _scene(camera: Camera) -> Image.Image:
    """Return the camera's scene without walkers as display bytes; painted once per process."""
    light = furnished_scene(camera)
    return Image.fromarray((np.clip(light, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8))


def scene_light(camera: Camera, window: Window) -> Floats:
    """Return the empty scene seen through a window, (rows, columns, 3) linear light."""
    left, top = window.left, window.top
    right, bottom = left + window.width, top + window.height
    scene = _scene(camera)
    inner = (max(0.0, left), max(0.0, top), min(float(FRAME_WIDTH), right), min(float(FRAME_HEIGHT), bottom))
    box = (
        min(inner[0], FRAME_WIDTH - 2.0), min(inner[1], FRAME_HEIGHT - 2.0), max(inner[2], 2.0), max(inner[3], 2.0),
    )  # fmt: skip
    return linear_image(np.asarray(scene.resize((window.columns, window.rows), Image.Resampling.BILINEAR, box=box)))


def render_crop(
    person: Person,
    camera: Camera,
    rng: np.random.Generator,
    occlusion: Occlusion = Occlusion(),
    height: int = 128,
    heading: float | None = None,
) -> Crop:
    """Render one crop.

    Args:
        person: Who is seen.
        camera: By which camera.
        rng: Decides pose, place, view, what hides the person, and all noise.
        occlusion: What should hide the person and how much of it.
        height: Rows of the crop; it has half as many columns.
        heading: Radians; 0 faces the camera. Drawn when `None`.
    """
    heading = float(rng.uniform(-np.pi, np.pi)) if heading is None else heading
    figure = _place(person, draw_pose(rng), camera, heading, rng)
    window = detector_window(figure, camera, rng, height * _SUPERSAMPLING)
    phase = float(rng.uniform(0, 6.28))
    light = cast_shadow(scene_light(camera, window), figure, camera, window)
    if rng.random() < _PASSER_SHARE:
        _put_behind(light, figure, camera, window, rng)
    own = draw(figure, camera, window, phase)
    light[own.mask] = own.colour[own.mask]
    cover = hide(own.mask, figure, camera, window, rng, occlusion.kind, occlusion.low, occlusion.high)
    if cover.layer is not None:
        light[cover.layer.mask] = cover.layer.colour[cover.layer.mask]
    image = _photograph(light, figure, camera, window, rng)
    seen = own.mask if cover.layer is None else own.mask & ~cover.layer.mask
    return Crop(image, seen[::2, ::2], cover.hidden, cover.kind, heading)


def _place(person: Person, pose: Pose, camera: Camera, heading: float, rng: np.random.Generator) -> Figure:
    """Stand the person somewhere in the frame; a place that cuts off much of the body is drawn again."""
    for _ in range(6):
        distance = float(rng.uniform(camera.near_m, camera.far_m))
        room = camera.viewpoint.lateral_room_m(distance) * 0.82
        figure = stand(person, pose, camera, (float(rng.uniform(-room, room)), distance), heading)
        _, top, _, bottom = figure.box
        if top > -0.04 * (bottom - top) and bottom < FRAME_HEIGHT + 0.08 * (bottom - top):
            break
    return figure


def detector_window(figure: Figure, camera: Camera, rng: np.random.Generator, rows: int) -> Window:
    """Return the box a detector would draw around a figure: shifted and scaled a little."""
    left, top, right, bottom = figure.box
    tall = bottom - top
    height = tall * float(np.clip(rng.normal(camera.looseness, 0.05), 0.9, 1.3))
    centre_x = (left + right) / 2 + rng.normal(0, 0.035) * tall
    centre_y = (top + bottom) / 2 + rng.normal(0, 0.025) * tall
    width = max(height * float(np.clip(rng.normal(0.46, 0.04), 0.36, 0.58)), (right - left) * 0.85)
    return Window(centre_x - width / 2, centre_y - height / 2, width, height, rows, rows // 2)


def _put_behind(light: Floats, figure: Figure, camera: Camera, window: Window, rng: np.random.Generator) -> None:
    """Draw a stranger farther away, partly within the window."""
    stranger = draw_person(int(rng.integers(_STRANGERS)), int(rng.integers(_STRANGERS)), "stranger")
    distance = figure.distance_m + float(rng.uniform(0.7, 5.0))
    centre = figure.mesh.positions[:, 0].mean() / figure.distance_m * distance
    place = (float(centre + rng.choice([-1, 1]) * rng.uniform(0.25, 0.8)), distance)
    behind = stand(stranger, draw_pose(rng), camera, place, float(rng.uniform(-np.pi, np.pi)))
    layer = draw(behind, camera, window, 0.0)
    light[layer.mask] = layer.colour[layer.mask]


def _photograph(light: Floats, figure: Figure, camera: Camera, window: Window, rng: np.random.Generator) -> Bytes:
    """Carry the light through the camera's sensor."""
    centre = (
        (window.left + window.width / 2) / FRAME_WIDTH * 2 - 1,
        ((window.top + window.height / 2) / FRAME_HEIGHT * 2 - 1) * FRAME_HEIGHT / FRAME_WIDTH,
    )
    mood = math.exp(float(rng.normal(0, 0.1)))
    image = expose(halve(light), camera.sensor, centre, window.width / FRAME_WIDTH, mood)
    motion = float(rng.exponential(0.7)) * image.shape[0] / 128
    return degrade(image, camera.sensor, window.height * camera.sensor.detail, rng, motion)
