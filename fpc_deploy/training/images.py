"""Training images, decoded once and kept in memory as bytes."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runtime.datasets import LabelledImage, read_labelled
from runtime.errors import SourceError
from runtime.images import read_image, resize

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
"""Folders of Market-1501, and of DukeMTMC-reID and Occluded-Duke after it."""
DISTRACTOR = "0000"

log = logging.getLogger(__name__)
Told = Callable[[int, int], None]
"""Called with the number of things done and the number in all."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        crops: (n, H, W, 3) uint8 RGB.
        identities: (n,) int64 number of the person; the names are in `identity_names`.
        cameras: (n,) int64 number of the camera; `len(camera_names)` where it is none of them.
        identity_names: names, by number.
        camera_names: names of the trained cameras, by number.
        camera_labels: (n,) names as read, known to the model or not.
    """

    crops: Tensor
    identities: Tensor
    cameras: Tensor
    identity_names: tuple[str, ...]
    camera_names: tuple[str, ...]
    camera_labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.crops)


def read_training_images(dataset: Path, height: int, width: int, told: Told = lambda done, total: None) -> ImageSet:
    """Read `DATASET/bounding_box_train`; identity 0000 (distractors) is nobody to learn.

    Raises:
        SourceError: there is no such folder, it labels nobody, or it shows too few people.
        ImageError: an image is damaged.
    """
    folder = Path(dataset) / TRAIN
    if not folder.is_dir():
        raise SourceError(f"{dataset} has no folder {TRAIN}: give a data set in the layout of Market-1501")
    labelled = [image for image in read_labelled(folder) if image.identity != DISTRACTOR]
    counts = Counter(image.identity for image in labelled)
    if len(counts) < 2:
        raise SourceError(f"{folder} shows {len(counts)} identities: training tells people apart, it needs 2 or more")
    single = sorted(identity for identity, count in counts.items() if count == 1)
    if len(single) == len(counts):
        raise SourceError(f"{folder} has one image of each identity: the triplet loss needs two or more")
    if single:
        log.warning(
            "%s: %d identities have one image (%s%s): the classifier learns them, the triplet loss sees copies of it",
            folder, len(single), ", ".join(single[:4]), ", ..." if len(single) > 4 else "",
        )  # fmt: skip
    cameras = sorted({image.camera for image in labelled if image.camera}, key=_numeric)
    return load_images(labelled, cameras, height, width, told)


def read_test_images(dataset: Path, height: int, width: int) -> tuple[ImageSet, ImageSet] | None:
    """Read the query and gallery folders of a data set, or return None where it has none or they are empty.

    No camera of these images has a number.

    Raises:
        SourceError: a folder holds files and labels no image.
        ImageError: an image is damaged.
    """
    folders = [Path(dataset) / name for name in (QUERY, GALLERY)]
    if not all(folder.is_dir() and any(folder.iterdir()) for folder in folders):
        return None
    labelled = [read_labelled(folder) for folder in folders]
    names = sorted({image.identity for images in labelled for image in images})
    query, gallery = (load_images(images, (), height, width, identities=names) for images in labelled)
    return query, gallery


def load_images(
    labelled: Sequence[LabelledImage],
    cameras: Sequence[str],
    height: int,
    width: int,
    told: Told = lambda done, total: None,
    identities: Sequence[str] | None = None,
) -> ImageSet:
    """Decode labelled images to crops of one size.

    Args:
        labelled: the images.
        cameras: names of the model's cameras, by number.
        height: of a crop, in pixels.
        width: of a crop, in pixels.
        told: called after each image.
        identities: names of people, by number; those of the images when None.
    """
    names = tuple(sorted({image.identity for image in labelled}) if identities is None else identities)
    number = {name: index for index, name in enumerate(names)}
    camera = {name: index for index, name in enumerate(cameras)}
    crops = np.empty((len(labelled), height, width, 3), np.uint8)
    for index, image in enumerate(labelled):
        crops[index] = resize(read_image(image.path), height, width)
        told(index + 1, len(labelled))
    return ImageSet(
        torch.from_numpy(crops),
        torch.tensor([number[image.identity] for image in labelled]),
        torch.tensor([camera.get(image.camera, len(cameras)) for image in labelled]),
        names,
        tuple(cameras),
        tuple(image.camera for image in labelled),
    )


def _numeric(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+", name)
    return (int(digits[0]) if digits else 0, name)
