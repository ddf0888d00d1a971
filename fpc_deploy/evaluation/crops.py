"""Labelled images become crops of the encoder's size, one batch ahead of whoever encodes them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Cameras
from runtime.datasets import LabelledImage
from runtime.errors import ImageError
from runtime.images import read_image, resize

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how many are done, how many there are)."""


@dataclass(frozen=True)
class Crops:
    """Images that could be read.

    Attributes:
        images: n labels.
        pixels: (n, H, W, 3) uint8 RGB.
    """

    images: tuple[LabelledImage, ...]
    pixels: NDArray[np.uint8]


def read_crops(images: Sequence[LabelledImage], size: tuple[int, int], batch: int) -> Iterator[tuple[int, Crops]]:
    """Read images in batches, the next one while this one is used; broken ones are reported and left out.

    Args:
        images: what to read.
        size: height and width of a crop.
        batch: images of a batch.

    Yields:
        How many images are dealt with so far, and the batch, which may be empty.
    """
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    with ThreadPoolExecutor(1, "decode") as pool:
        waiting = [pool.submit(_read, part, size) for part in parts[:1]]
        done = 0
        for number, part in enumerate(parts):
            crops = waiting.pop().result()
            waiting += [pool.submit(_read, following, size) for following in parts[number + 1 : number + 2]]
            done += len(part)
            yield done, crops


def camera_indices(cameras: Cameras, images: Sequence[LabelledImage]) -> NDArray[np.int64]:
    """Return (n,) int64 camera indices as the encoder takes them, the last of the table for a strange camera."""
    return np.array([cameras.index_of(image.camera) for image in images], np.int64)


def warn_of_strange_cameras(cameras: Cameras, images: Sequence[LabelledImage], dataset: str) -> None:
    """Say which cameras of a data set the model was not trained on; their images count as from an unknown one."""
    strange = sorted({image.camera for image in images} - set(cameras.names))
    if not cameras.trained or not strange:
        return
    if not cameras.names:
        log.warning(
            "the bundle does not name its %d cameras: all images of %s are encoded as from an unknown one; if it was "
            "trained on them, export it with --camera-names (c1,c2,... as in the file names)",
            cameras.trained,
            dataset,
        )
        return
    log.warning(
        "cameras %s of %s are outside the model's table (%s): their images are encoded as from an unknown camera",
        ", ".join(strange),
        dataset,
        ", ".join(cameras.names),
    )


def _read(images: Sequence[LabelledImage], size: tuple[int, int]) -> Crops:
    read = [(image, pixels) for image in images if (pixels := _read_one(image, size)) is not None]
    stacked = np.stack([pixels for _, pixels in read]) if read else np.empty((0, *size, 3), np.uint8)
    return Crops(tuple(image for image, _ in read), stacked)


def _read_one(image: LabelledImage, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    try:
        return resize(read_image(image.path), *size)
    except ImageError as error:
        log.warning("%s: left out", error)
        return None
