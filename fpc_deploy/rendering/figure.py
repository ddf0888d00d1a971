"""One person, drawn alone through a window of a camera's frame."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from fpc_deploy.rendering.arrays import Floats
from fpc_deploy.rendering.body import body_mesh
from fpc_deploy.rendering.cameras import Camera
from fpc_deploy.rendering.mesh import Mesh, turn
from fpc_deploy.rendering.people import Person
from fpc_deploy.rendering.pose import Pose
from fpc_deploy.rendering.raster import rasterise
from fpc_deploy.rendering.shading import Folds, Layer, shade
from fpc_deploy.rendering.surface import person_colour
from fpc_deploy.rendering.viewpoint import Window

FOLDS = 0.11


@dataclass(frozen=True)
class Figure:
    """A posed person at a place in a camera's view.

    Attributes:
        person: Who.
        mesh: In camera ground coordinates, metres.
        screen: (V, 2) vertices in frame pixels.
        depth: (V,) metres from the lens.
        distance_m: Along the ground.
    """

    person: Person
    mesh: Mesh
    screen: Floats
    depth: Floats
    distance_m: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in frame pixels."""
        low, high = self.screen.min(axis=0), self.screen.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def stand(person: Person, pose: Pose, camera: Camera, place: tuple[float, float], heading: float) -> Figure:
    """Put a person on the ground.

    Args:
        person: Who.
        pose: How the body is held.
        camera: From where it is seen.
        place: Metres to the right of the lens and away from it.
        heading: Radians; 0 walks towards the camera, pi away from it.
    """
    x, z = place
    mesh = body_mesh(person, pose).placed(turn(1, np.pi + heading), [x, 0, z])
    screen, depth = camera.viewpoint.project(mesh.positions)
    return Figure(person, mesh, screen, depth, z)


def draw(figure: Figure, camera: Camera, window: Window, phase: float) -> Layer:
    """Draw a figure through a window; `phase` sets the folds of its clothes."""
    visible = rasterise(
        window.to_pixels(figure.screen), figure.depth, figure.mesh.triangles, (window.rows, window.columns)
    )
    colour = partial(person_colour, figure.person)
    return shade(figure.mesh, visible, colour, camera.light, Folds(FOLDS, phase))
