"""How people walk through the view of a camera."""

from dataclasses import dataclass, replace

import numpy as np

from fpc_deploy.rendering.cameras import Camera
from fpc_deploy.rendering.figure import Figure, stand
from fpc_deploy.rendering.people import Person
from fpc_deploy.rendering.pose import Pose, draw_pose

_STEP_M = 0.82  # of the path per radian of gait is _STEP_M / pi


@dataclass(frozen=True)
class Walk:
    """A straight walk of one person through one camera's view.

    Attributes:
        track: Its number in the box file, from 1.
        person: Who walks.
        start, end: Metres to the right of the lens and away from it.
        start_s, speed_m_s: When and how fast.
        sway_m: How far the path bends aside in its middle.
        pose: At the start; its gait goes on.
    """

    track: int
    person: Person
    start: tuple[float, float]
    end: tuple[float, float]
    start_s: float
    speed_m_s: float
    sway_m: float
    pose: Pose

    @property
    def length_m(self) -> float:
        """Length of the straight path."""
        return float(np.hypot(self.end[0] - self.start[0], self.end[1] - self.start[1]))

    @property
    def end_s(self) -> float:
        """When the walk is over."""
        return self.start_s + self.length_m / self.speed_m_s

    def figure(self, camera: Camera, time_s: float) -> Figure | None:
        """Return the walker at a time, or `None` before and after the walk."""
        if not self.start_s <= time_s < self.end_s:
            return None
        gone = (time_s - self.start_s) * self.speed_m_s
        share = gone / self.length_m
        ahead = ((self.end[0] - self.start[0]) / self.length_m, (self.end[1] - self.start[1]) / self.length_m)
        bend = self.sway_m * np.sin(np.pi * share)
        x = self.start[0] + ahead[0] * gone - ahead[1] * bend
        z = self.start[1] + ahead[1] * gone + ahead[0] * bend
        drift = self.sway_m * np.pi / self.length_m * np.cos(np.pi * share)
        heading = np.arctan2(-ahead[0] + ahead[1] * drift, -ahead[1] - ahead[0] * drift)
        pose = replace(self.pose, phase=self.pose.phase + gone / _STEP_M * np.pi)
        return stand(self.person, pose, camera, (float(x), float(z)), float(heading))


def draw_walk(rng: np.random.Generator, track: int, person: Person, camera: Camera, start_s: float) -> Walk:
    """Draw a walk that crosses the view from one side to the other, or comes up or goes away slantwise."""
    near, far = camera.near_m + 1.3, camera.far_m - 0.2
    first, second = rng.uniform(near, far, 2)
    side = float(rng.choice([-1, 1]))
    edge = [1.12, 1.12]
    if rng.random() < 0.35:  # slantwise: the far end lies within the view
        first, second = (far, near) if rng.random() < 0.5 else (near, far)
        edge = [0.6, 1.12] if first > second else [1.12, 0.6]
    start = (-side * edge[0] * camera.viewpoint.lateral_room_m(float(first)), float(first))
    end = (side * edge[1] * camera.viewpoint.lateral_room_m(float(second)), float(second))
    pose = draw_pose(rng, walking=1.0)
    speed = float(rng.uniform(1.0, 1.5))
    return Walk(
        track,
        person,
        start,
        end,
        start_s,
        speed,
        float(rng.normal(0, 0.5)),
        replace(pose, head_yaw=pose.head_yaw * 0.5),
    )
