"""From light to the bytes a camera sends: exposure, tone, blur, noise, compression."""

import io

import numpy as np
from PIL import Image, ImageFilter

from fpc_deploy.rendering.arrays import Bytes, Floats
from fpc_deploy.rendering.cameras import Sensor

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_REFERENCE_ROWS = 128


def halve(image: Floats) -> Floats:
    """Average squares of two by two pixels of (2H, 2W, 3)."""
    rows = image[0::2] + image[1::2]
    mean: Floats = (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)
    return mean


def expose(light: Floats, sensor: Sensor, centre: tuple[float, float], zoom: float, mood: float) -> Bytes:
    """Turn linear light (H, W, 3) into display bytes.

    Args:
        light: Linear light.
        sensor: The camera's faults.
        centre: Where the middle of the picture lies in the frame, -1 to 1 from left to right and top to bottom.
        zoom: How much of the frame's half width the picture spans.
        mood: Factor on the exposure, for the time of day.
    """
    rows, columns = light.shape[:2]
    x = np.linspace(-1, 1, columns, dtype=np.float32) * zoom + centre[0]
    y = np.linspace(-1, 1, rows, dtype=np.float32) * zoom * rows / columns + centre[1]
    falloff = 1 - sensor.vignette * np.clip((x[None] ** 2 + y[:, None] ** 2) / 2, 0, 1)
    gain = np.array(sensor.gains, np.float32) * np.float32(sensor.exposure * mood)
    scaled = light * gain * falloff[..., None]
    scaled = scaled / (1 + np.float32(0.22) * scaled) * np.float32(1.18)  # highlights roll off
    tone = np.power(np.clip(scaled, 0, None), np.float32(1 / 2.2))
    tone = (tone - 0.45) * np.float32(sensor.contrast) + np.float32(0.45)
    tone = tone * np.float32(1 - sensor.lift) + np.float32(sensor.lift)
    grey = (tone @ _LUMA)[..., None]
    tone = grey + (tone - grey) * np.float32(sensor.saturation)
    return np.asarray((np.clip(tone, 0, 1) * 255 + 0.5).astype(np.uint8), np.uint8)


def degrade(
    image: Bytes, sensor: Sensor, native_rows: float, rng: np.random.Generator, motion_px: float = 0.0
) -> Bytes:
    """Blur, thin out, add noise to and compress a picture (H, W, 3).

    Args:
        image: Display bytes.
        sensor: The camera's faults.
        native_rows: Rows that the sensor really has for what the picture shows.
        rng: For the noise.
        motion_px: Length of a sideways smear, in pixels of the picture.
    """
    rows, columns = image.shape[:2]
    picture = Image.fromarray(image)
    blur = sensor.blur_px * rows / _REFERENCE_ROWS
    if blur > 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
    if motion_px > 1:
        narrow = max(8, round(columns / motion_px))
        picture = picture.resize((narrow, rows), Image.Resampling.BOX).resize((columns, rows), Image.Resampling.BICUBIC)
    share = min(1.0, native_rows / rows)
    small = (max(12, round(columns * share)), max(24, round(rows * share)))
    if small[1] < rows:
        picture = picture.resize(small, Image.Resampling.BOX)
    values = np.asarray(picture, np.float32)
    noise = rng.standard_normal(values.shape[:2], dtype=np.float32)[..., None] * np.float32(sensor.noise)
    colour = rng.standard_normal(values.shape, dtype=np.float32) * np.float32(sensor.noise * 0.5)
    noisy = np.clip(values + (noise + colour) * (1.25 - values / 400), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "JPEG", quality=sensor.jpeg_quality)
    decoded: Image.Image = Image.open(stream)
    if decoded.size != (columns, rows):
        decoded = decoded.resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(decoded, np.uint8)
