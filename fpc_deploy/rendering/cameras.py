"""The cameras of a site: each has its place, its light and its own faults."""

from dataclasses import dataclass

import numpy as np

from fpc_deploy.rendering.arrays import Colour
from fpc_deploy.rendering.seeds import generator
from fpc_deploy.rendering.viewpoint import Viewpoint


@dataclass(frozen=True)
class Light:
    """What lights the scene: one key light and a sky; colours in linear light.

    Attributes:
        towards: (3,) unit vector to the key light.
        key: Its colour and strength.
        sky: Colour and strength from above.
        bounce: Colour and strength from below.
        shadow: How much darker a cast shadow is, 0 to 1.
    """

    towards: tuple[float, float, float]
    key: Colour
    sky: Colour
    bounce: Colour
    shadow: float


@dataclass(frozen=True)
class Sensor:
    """How a camera changes what it sees.

    Attributes:
        gains: White balance, per channel.
        exposure: Factor on the light.
        contrast: Slope about the middle of the tone curve.
        lift: Added to black, as haze or a cheap lens does.
        saturation: 1 keeps colours.
        blur_px: Gaussian blur, in pixels of a 128-row picture.
        detail: Share of the frame's pixels along each side that the camera really has.
        noise: Standard deviation at middle grey, of 255.
        vignette: Loss of light in the corners, 0 to 1.
        jpeg_quality: Of the camera's own stream.
    """

    gains: Colour
    exposure: float
    contrast: float
    lift: float
    saturation: float
    blur_px: float
    detail: float
    noise: float
    vignette: float
    jpeg_quality: int


@dataclass(frozen=True)
class Camera:
    """One camera.

    Attributes:
        number: From 1.
        seed: Of the site it belongs to.
        indoor: Whether it hangs in a shop or a hall rather than in a street.
        near_m, far_m: Between which distances people walk.
        looseness: Mean height of a detector's box, in heights of the person.
    """

    number: int
    seed: int
    indoor: bool
    viewpoint: Viewpoint
    light: Light
    sensor: Sensor
    near_m: float
    far_m: float
    looseness: float


def draw_camera(seed: int, number: int) -> Camera:
    """Draw camera `number` (from 1) of the site `seed`."""
    rng = generator(seed, "camera", number)
    indoor = bool(rng.random() < 0.45)
    height = float(rng.uniform(2.2, 3.4) if indoor else rng.uniform(2.0, 4.8))
    near, far = (3.8, 8.0) if indoor else (5.0, 12.0)
    middle = float(rng.uniform(near + 1, far - 2))
    viewpoint = Viewpoint(
        height_m=height,
        pitch=float(np.arctan((height - 0.95) / middle)),
        roll=float(np.clip(rng.normal(0, 0.025), -0.06, 0.06)),
        focal_px=float(rng.uniform(620, 900)),
    )
    return Camera(
        number=number,
        seed=seed,
        indoor=indoor,
        viewpoint=viewpoint,
        light=_draw_light(rng, indoor),
        sensor=_draw_sensor(rng, indoor),
        near_m=near,
        far_m=far,
        looseness=float(rng.uniform(1.02, 1.14)),
    )


def _draw_light(rng: np.random.Generator, indoor: bool) -> Light:
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = rng.uniform(0.9, 1.4) if indoor else rng.uniform(0.75, 1.25)
    towards = (np.cos(azimuth) * np.cos(elevation), np.sin(elevation), -np.sin(azimuth) * np.cos(elevation))
    overcast = rng.uniform(0.4, 1.0) if indoor else rng.uniform(0.0, 0.9)
    warm = rng.uniform(-0.06, 0.12) if indoor else rng.uniform(-0.02, 0.06)
    key = 0.95 - 0.6 * overcast
    sky = 0.28 + 0.4 * overcast
    return Light(
        towards=(float(towards[0]), float(towards[1]), float(towards[2])),
        key=(float(key * (1 + warm)), float(key), float(key * (1 - 1.5 * warm))),
        sky=(float(sky * 0.97), float(sky), float(sky * 1.04)),
        bounce=(0.17, 0.16, 0.15),
        shadow=float(0.25 + 0.35 * (1 - overcast)),
    )


def _draw_sensor(rng: np.random.Generator, indoor: bool) -> Sensor:
    warmth, tint = rng.normal(0, 0.13), rng.normal(0, 0.055)
    return Sensor(
        gains=(float(np.exp(warmth)), float(np.exp(tint)), float(np.exp(-warmth))),
        exposure=float(np.exp(rng.normal(0.15, 0.24))),
        contrast=float(rng.uniform(0.78, 1.25)),
        lift=float(rng.uniform(0.0, 0.07)),
        saturation=float(rng.uniform(0.6, 1.15)),
        blur_px=float(rng.uniform(0.25, 0.95)),
        detail=float(rng.uniform(0.35, 0.95)),
        noise=float(rng.uniform(1.0, 8.0 if indoor else 6.0)),
        vignette=float(rng.uniform(0.0, 0.4)),
        jpeg_quality=int(rng.integers(35, 85)),
    )
