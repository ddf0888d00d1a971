"""Calibration data: crops from a folder, spread over people and cameras, without what would teach nothing."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.datasets import LabelledImage, read_labelled
from runtime.errors import ImageError, SourceError
from runtime.images import SUFFIXES, read_image, resize

log = logging.getLogger(__name__)

MIN_IMAGES = 16
"""Fewest usable images: with less, one odd picture decides a range, and nothing is left to judge the result by."""
MAX_HELD_OUT = 64
HELD_OUT_SHARE = 0.25
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
        held_out: (m, H, W, 3) uint8, of none of the same files.
        warnings: what is odd about the data.
    """

    crops: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    warnings: tuple[str, ...]


def load_calibration_set(source: Path, count: int, height: int, width: int, seed: int = 0) -> CalibrationSet:
    """Read crops from a folder or labelled list, the same ones for the same seed.

    Args:
        source: what `runtime.datasets.read_labelled` understands, or any folder of images.
        count: how many to calibrate with; a quarter of as many as there are, at most 64, is held out beside them.
        height: of a crop.
        width: of a crop.
        seed: of the choice.

    Raises:
        SourceError: no images, or fewer than 16 that can be read, show something and differ from one another.
    """
    if count < MIN_IMAGES:
        raise SourceError(f"--count {count}: at least {MIN_IMAGES} images are needed to calibrate")
    images = spread(find_images(source), seed)
    wanted = count + MAX_HELD_OUT
    found = _read(images, wanted, height, width)
    crops = found.crops
    if len(crops) < MIN_IMAGES:
        raise SourceError(
            f"{source} has {len(crops)} usable images of {len(images)} ({found.unreadable} unreadable, {found.useless} "
            f"blank or repeated): at least {MIN_IMAGES} are needed; give a few hundred crops of people from all cameras"
        )
    held_out = min(MAX_HELD_OUT, int(HELD_OUT_SHARE * len(crops)))
    held, used = np.stack(crops[:held_out]), np.stack(crops[held_out : held_out + count])
    return CalibrationSet(used, held, tuple(_oddities(found, len(used), count)))


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


def spread(images: Sequence[LabelledImage], seed: int) -> list[LabelledImage]:
    """Order images so that any first part of them covers as many people, and of each as many cameras, as it can."""
    rng = np.random.default_rng(seed)
    groups: dict[str, dict[str, list[LabelledImage]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        groups[image.identity][image.camera].append(image)
    people = []
    for identity in sorted(groups):
        cameras = [_shuffled(groups[identity][camera], rng) for camera in sorted(groups[identity])]
        people.append(_taking_turns(_shuffled(cameras, rng)))
    return _taking_turns(_shuffled(people, rng))


def neighbour_correlation(image: NDArray[np.uint8]) -> float:
    """Return the correlation between adjacent pixels of an (H, W, 3) image, in -1..1."""
    grey = image.astype(np.float32).mean(axis=2)
    grey -= grey.mean()
    products = [(grey[1:] * grey[:-1]).mean() if len(grey) > 1 else 1, (grey[:, 1:] * grey[:, :-1]).mean()]
    return float(np.mean(products) / (grey.var() + 1e-12))


def _taking_turns(groups: Sequence[Sequence[LabelledImage]]) -> list[LabelledImage]:
    longest = max(map(len, groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]


def _shuffled(items: Sequence, rng: np.random.Generator) -> list:  # type: ignore[type-arg]
    return [items[place] for place in rng.permutation(len(items))]


@dataclass
class _Found:
    """What reading came to."""

    crops: list[NDArray[np.uint8]]
    correlations: list[float]
    unreadable: int = 0
    useless: int = 0


def _read(images: Sequence[LabelledImage], wanted: int, height: int, width: int) -> _Found:
    """Read up to `wanted` usable crops."""
    found, seen = _Found([], []), set[bytes]()
    for labelled in images:
        if len(found.crops) == wanted:
            break
        try:
            image = read_image(labelled.path)
        except ImageError as error:
            log.warning("%s: left out", error)
            found.unreadable += 1
            continue
        crop = resize(image, height, width)
        digest = hashlib.sha256(crop.tobytes()).digest()
        if digest in seen or crop.std(axis=(0, 1)).max() < FLAT:
            found.useless += 1
            continue
        seen.add(digest)
        found.crops.append(crop)
        found.correlations.append(neighbour_correlation(image))
    return found


def _oddities(found: _Found, used: int, count: int) -> list[str]:
    odd = []
    if used < count:
        odd.append(f"calibrated on {used} crops of the {count} asked for: there are no more")
    if found.unreadable:
        odd.append(f"{found.unreadable} images could not be read")
    correlation = float(np.median(found.correlations))
    if correlation < MIN_NEIGHBOUR_CORRELATION:
        odd.append(
            f"the images look like noise, not photographs (adjacent pixels correlate by {correlation:.2f}, those of "
            f"photographs by {MIN_NEIGHBOUR_CORRELATION} or more): calibrate with crops from the cameras to be watched"
        )
    return odd
