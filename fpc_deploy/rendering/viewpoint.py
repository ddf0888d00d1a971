"""A pinhole camera above flat ground, and windows on its frame."""

from dataclasses import dataclass

import numpy as np

from fpc_deploy.rendering.arrays import Floats

FRAME_WIDTH, FRAME_HEIGHT = 960, 540


@dataclass(frozen=True)
class Viewpoint:
    """Where a camera hangs and how it looks; x runs to its right, y up, z away from it.

    Attributes:
        height_m: Of the lens above the ground.
        pitch: Downwards, radians.
        roll: Tilt about the line of sight, radians.
        focal_px: Focal length in pixels of a 960 x 540 frame.
    """

    height_m: float
    pitch: float
    roll: float
    focal_px: float

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Project (N, 3) metres to (N, 2) frame pixels and (N,) metres of depth."""
        rise = points[:, 1] - np.float32(self.height_m)
        sine, cosine = np.float32(np.sin(self.pitch)), np.float32(np.cos(self.pitch))
        depth = points[:, 2] * cosine - rise * sine
        up = rise * cosine + points[:, 2] * sine
        scale = np.float32(self.focal_px) / np.maximum(depth, np.float32(0.05))
        x, y = points[:, 0] * scale, -up * scale
        tilt_sine, tilt_cosine = np.float32(np.sin(self.roll)), np.float32(np.cos(self.roll))
        screen = np.stack([x * tilt_cosine - y * tilt_sine, x * tilt_sine + y * tilt_cosine], axis=1)
        screen += np.array([FRAME_WIDTH / 2, FRAME_HEIGHT / 2], np.float32)
        return screen.astype(np.float32), depth.astype(np.float32)

    def rays(self, step: int = 1) -> Floats:
        """Return the direction of sight (FRAME_HEIGHT / step, FRAME_WIDTH / step, 3) of each pixel."""
        x = (np.arange(0, FRAME_WIDTH, step, dtype=np.float32) + step / 2 - FRAME_WIDTH / 2) / self.focal_px
        y = (np.arange(0, FRAME_HEIGHT, step, dtype=np.float32) + step / 2 - FRAME_HEIGHT / 2) / self.focal_px
        across, down = np.meshgrid(x, y)
        sine, cosine = np.sin(-self.roll), np.cos(-self.roll)
        across, down = across * cosine - down * sine, across * sine + down * cosine
        up = -down * np.cos(self.pitch) - np.sin(self.pitch)
        away = np.cos(self.pitch) - down * np.sin(self.pitch)
        return np.stack([across, up, away], axis=-1).astype(np.float32)

    def lateral_room_m(self, distance_m: float) -> float:
        """Return how far to either side the frame reaches at `distance_m` along the ground."""
        return float(FRAME_WIDTH / 2 / self.focal_px * distance_m)


@dataclass(frozen=True)
class Window:
    """A rectangle of the frame that is drawn at its own size.

    Attributes:
        left, top, width, height: In frame pixels; may reach beyond the frame.
        rows, columns: Size of the picture drawn from it.
    """

    left: float
    top: float
    width: float
    height: float
    rows: int
    columns: int

    def to_pixels(self, screen: Floats) -> Floats:
        """Carry (N, 2) frame pixels into pixels of the picture."""
        scale = np.array([self.columns / self.width, self.rows / self.height], np.float32)
        return (screen - np.array([self.left, self.top], np.float32)) * scale
