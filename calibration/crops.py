"""Calibration data: crops from a folder, spread over people and cameras, without what would teach nothing."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.protocol import Labels
from calibration.split import HELD_OUT_SHARE, STRANGERS, split_people, spread
from runtime.datasets import LabelledImage, read_labelled
from runtime.errors import ImageError, SourceError
from runtime.images import SUFFIXES, read_image, resize

log = logging.getLogger(__name__)

MIN_IMAGES = 16
"""Fewest usable images: with less, one odd picture decides a range, and nothing is left to judge the result by."""
MAX_HELD_OUT = 64
MAX_GALLERY = 100
"""Gallery crops where nobody is labelled: as many as EMD refines (design section 4)."""
FLAT = 2.0
"""Standard deviation of every channel, in levels of 255, below which an image shows nothing."""
MIN_NEIGHBOUR_CORRELATION = 0.75
"""Least median correlation of adjacent pixels of the files as they are, before resizing smooths them.

Measured: rendered crops and video frames 0.97 to 0.99, white noise 0, noise of half the size, enlarged, 0.75.
That images show people at all is not checked: it would take a model that knows.
"""


@dataclass(frozen=True)
class CalibrationSet:
    """Crops to calibrate with, and others to judge the result by.

    Attributes:
        crops: (n, H, W, 3) uint8.
        held_out: (m, H, W, 3) uint8 queries, of none of the same files and, where labels tell, of other people.
        gallery: (g, H, W, 3) uint8, what they are compared with.
        labels: of `held_out` and of `gallery`, where there are enough to measure mAP; else None.
        warnings: what is odd about the data.
    """

    crops: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    gallery: NDArray[np.uint8]
    labels: tuple[Labels, Labels] | None
    warnings: tuple[str, ...]


def load_calibration_set(source: Path, count: int, height: int, width: int, seed: int = 0) -> CalibrationSet:
    """Read crops from a folder or labelled list, the same ones for the same seed.

    Where people are labelled a quarter of them, at most 64, is held out with all their images, to measure mAP on them.
    Otherwise a quarter of the images, at most 64, is held out.

    Args:
        source: what `runtime.datasets.read_labelled` understands, or any folder of images.
        count: how many to calibrate with, beside those held out.
        height: of a crop.
        width: of a crop.
        seed: of the choice.

    Raises:
        SourceError: no images, or fewer than 16 that can be read, show something and differ from one another.
    """
    if count < MIN_IMAGES:
        raise SourceError(f"--count {count}: at least {MIN_IMAGES} images are needed to calibrate")
    images = find_images(source)
    reader = _Reader(height, width)
    split = split_people(images, seed)
    if split is None:
        usable = reader.read(spread(images, seed), count + MAX_HELD_OUT)
        held_out = min(MAX_HELD_OUT, int(HELD_OUT_SHARE * len(usable)))
        queries, used = usable[:held_out], usable[held_out : held_out + count]
        gallery, labels = used[:MAX_GALLERY], None
    else:
        queries, mates = (reader.read(part, len(part)) for part in (split.queries, split.gallery))
        used = reader.read(split.calibrate, count)
        gallery = [*mates, *used[:STRANGERS]]
        labels = _labels(queries, "query"), _labels(gallery, "gallery")
    if (reader.usable if split is None else len(used)) < MIN_IMAGES or not queries:
        raise SourceError(
            f"{source} has {reader.usable} usable images of {len(images)} ({reader.unreadable} unreadable, "
            f"{reader.useless} blank or repeated): at least {MIN_IMAGES} are needed; give a few hundred crops of "
            "people from all cameras"
        )
    return CalibrationSet(
        crops=_stack(used),
        held_out=_stack(queries),
        gallery=_stack(gallery),
        labels=labels,
        warnings=tuple(reader.oddities(len(used), count)),
    )


def find_images(source: Path) -> list[LabelledImage]:
    """List the images of a source; in a folder without labels each file is of an unknown person.

    Raises:
        SourceError: no such source, or no images in it.
    """
    try:
        return read_labelled(source)
    except SourceError:
        if not source.is_dir():
            raise
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise SourceError(f"{source} holds no images ({', '.join(sorted(SUFFIXES))})")
    return [LabelledImage(path, "", "") for path in paths]


def neighbour_correlation(image: NDArray[np.uint8]) -> float:
    """Return the correlation between adjacent pixels of an (H, W, 3) image, in -1..1."""
    grey = image.astype(np.float32).mean(axis=2)
    grey -= grey.mean()
    products = [(grey[1:] * grey[:-1]).mean() if len(grey) > 1 else 1, (grey[:, 1:] * grey[:, :-1]).mean()]
    return float(np.mean(products) / (grey.var() + 1e-12))


@dataclass(frozen=True)
class _Crop:
    """A usable image, resized."""

    image: LabelledImage
    pixels: NDArray[np.uint8]


class _Reader:
    """Reads usable images and counts the others; one that was read before is not usable again."""

    def __init__(self, height: int, width: int) -> None:
        self._size = (height, width)
        self._seen: set[bytes] = set()
        self._correlations: list[float] = []
        self.unreadable = self.useless = 0

    @property
    def usable(self) -> int:
        """Number of crops read so far."""
        return len(self._correlations)

    def read(self, images: Sequence[LabelledImage], wanted: int) -> list[_Crop]:
        """Read up to `wanted` usable crops, in order."""
        found: list[_Crop] = []
        for labelled in images:
            if len(found) == wanted:
                break
            crop = self._read(labelled)
            if crop is not None:
                found.append(crop)
        return found

    def _read(self, labelled: LabelledImage) -> _Crop | None:
        try:
            image = read_image(labelled.path)
        except ImageError as error:
            log.warning("%s: left out", error)
            self.unreadable += 1
            return None
        crop = resize(image, *self._size)
        digest = hashlib.sha256(crop.tobytes()).digest()
        if digest in self._seen or crop.std(axis=(0, 1)).max() < FLAT:
            self.useless += 1
            return None
        self._seen.add(digest)
        self._correlations.append(neighbour_correlation(image))
        return _Crop(labelled, crop)

    def oddities(self, used: int, count: int) -> list[str]:
        """Say what is odd about what was read."""
        odd = []
        if used < count:
            odd.append(f"calibrated on {used} crops of the {count} asked for: there are no more")
        if self.unreadable:
            odd.append(f"{self.unreadable} images could not be read")
        correlation = float(np.median(self._correlations))
        if correlation < MIN_NEIGHBOUR_CORRELATION:
            odd.append(
                f"the images look like noise, not photographs (adjacent pixels correlate by {correlation:.2f}, those "
                f"of photographs by {MIN_NEIGHBOUR_CORRELATION} or more): calibrate with crops from the cameras to be "
                "watched"
            )
        return odd


def _labels(crops: Sequence[_Crop], side: str) -> Labels:
    """Labels of one side; an unknown camera is never the same as one of the other side."""
    return Labels.of([(crop.image.identity, crop.image.camera or side) for crop in crops])


def _stack(crops: Sequence[_Crop]) -> NDArray[np.uint8]:
    return np.stack([crop.pixels for crop in crops])
