"""The array types of the renderer, and the two conversions between display and linear colour."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Colour = tuple[float, float, float]
"""A colour in linear light, 0 to 1."""

_TO_LINEAR = ((np.arange(256) / 255.0) ** 2.2).astype(np.float32)


def linear(red: float, green: float, blue: float) -> Colour:
    """Turn a display colour (0 to 255) into linear light (0 to 1)."""
    return ((red / 255) ** 2.2, (green / 255) ** 2.2, (blue / 255) ** 2.2)


def linear_image(image: Bytes) -> Floats:
    """Turn display bytes of any shape into linear light, 0 to 1."""
    return _TO_LINEAR[image]


def box_blur(image: Floats, radius: int) -> Floats:
    """Blur (H, W) with a square of `2 * radius + 1` pixels; the border repeats the last pixel."""
    side = 2 * radius + 1
    padded = np.pad(image, ((radius + 1, radius), (radius + 1, radius)), mode="edge")
    rows = padded.cumsum(axis=0, dtype=np.float64)
    rows = rows[side:] - rows[:-side]
    both = rows.cumsum(axis=1)
    both = both[:, side:] - both[:, :-side]
    return np.asarray((both / side**2).astype(np.float32), np.float32)
