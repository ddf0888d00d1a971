"""Things and people that always stand at the back of a camera's scene."""

from functools import partial

import numpy as np

from fpc_deploy.rendering.arrays import Floats
from fpc_deploy.rendering.backgrounds import paint_background
from fpc_deploy.rendering.cameras import Camera
from fpc_deploy.rendering.figure import draw, stand
from fpc_deploy.rendering.occluders import draw_thing, thing_colour
from fpc_deploy.rendering.people import draw_person
from fpc_deploy.rendering.pose import draw_pose
from fpc_deploy.rendering.raster import rasterise
from fpc_deploy.rendering.seeds import generator
from fpc_deploy.rendering.shading import Folds, Layer, shade
from fpc_deploy.rendering.shadows import cast_shadow
from fpc_deploy.rendering.viewpoint import FRAME_HEIGHT, FRAME_WIDTH, Window

_WHOLE = Window(0, 0, FRAME_WIDTH, FRAME_HEIGHT, FRAME_HEIGHT, FRAME_WIDTH)
_THINGS, _BYSTANDERS = 6, 3


def furnished_scene(camera: Camera) -> Floats:
    """Paint a camera's scene with what stands in it behind all walkers: (540, 960, 3) linear light."""
    rng = generator(camera.seed, "furnishing", camera.number)
    light = paint_background(camera)
    places = sorted((_behind(camera, rng) for _ in range(_THINGS + _BYSTANDERS)), key=lambda place: -place[1])
    bystanders = set(rng.choice(len(places), _BYSTANDERS, replace=False).tolist())
    for number, place in enumerate(places):
        if number in bystanders:
            person = draw_person(camera.seed, 100 * camera.number + number, "bystander")
            figure = stand(person, draw_pose(rng, 0.3), camera, place, float(rng.uniform(-np.pi, np.pi)))
            light = cast_shadow(light, figure, camera, _WHOLE)
            layer = draw(figure, camera, _WHOLE, float(number))
        else:
            layer = _thing(camera, place, rng)
        light[layer.mask] = layer.colour[layer.mask]
    return light


def _behind(camera: Camera, rng: np.random.Generator) -> tuple[float, float]:
    """Draw a place behind the farthest walker."""
    distance = camera.far_m + float(rng.uniform(0.6, 2.2))
    return float(rng.uniform(-1.05, 1.05)) * camera.viewpoint.lateral_room_m(distance), distance


def _thing(camera: Camera, place: tuple[float, float], rng: np.random.Generator) -> Layer:
    thing = draw_thing(rng, camera.indoor)
    while thing.kind in ("umbrella", "corner"):  # these need somebody or something beside them
        thing = draw_thing(rng, camera.indoor)
    mesh = thing.mesh.placed(np.eye(3, dtype=np.float32), [place[0], 0, place[1]])
    screen, depth = camera.viewpoint.project(mesh.positions)
    visible = rasterise(screen, depth, mesh.triangles, (FRAME_HEIGHT, FRAME_WIDTH), both_sides=True)
    return shade(mesh, visible, partial(thing_colour, thing), camera.light, Folds(0.0, 0.0))
