"""Person data sets as they are published: which folder holds the queries, which the gallery.

| data set | queries | gallery | cameras |
| --- | --- | --- | --- |
| Market-1501, DukeMTMC-reID, Occluded-Duke | `query` | `bounding_box_test` | in the file names |
| Partial-REID | `partial_body_images` | `whole_body_images` | none |
| P-DukeMTMC-reID | `test/occluded_body_images` | `test/whole_body_images` | in the file names, for the encoder |
| Occluded-REID | `occluded_body_images` | `whole_body_images` | none |

Where a set tells no cameras, its queries and its gallery are taken for two different cameras. So are those of
P-DukeMTMC-reID when they are scored, as in the loaders that published figures come from (torchreid's and fast-reid's).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calibration.protocol import Labels
from runtime.datasets import LabelledImage, read_labelled
from runtime.errors import SourceError
from runtime.images import SUFFIXES

QUERY_CAMERA, GALLERY_CAMERA = "queries", "gallery"
"""Cameras of a set that tells none."""

_FLAT_NAME = re.compile(r"(?P<identity>\d+)_\d+\.")  # Partial-REID: 001_001.jpg


@dataclass(frozen=True)
class Layout:
    """One way in which data sets are published: its name and its two folders.

    Attributes:
        sides_are_cameras: whether the ranking takes all queries for one camera's and the gallery for another's.
    """

    name: str
    query: str
    gallery: str
    sides_are_cameras: bool = False


LAYOUTS = (
    Layout("Market-1501, DukeMTMC-reID, Occluded-Duke", "query", "bounding_box_test"),
    # before Occluded-REID: Partial-REID holds occluded_body_images too
    Layout("Partial-REID", "partial_body_images", "whole_body_images"),
    Layout("P-DukeMTMC-reID", "test/occluded_body_images", "test/whole_body_images", sides_are_cameras=True),
    Layout("Occluded-REID", "occluded_body_images", "whole_body_images"),
)


@dataclass(frozen=True)
class TestSet:
    """Queries and gallery of a data set; identity -1 (junk) is left out, 0000 (strangers) is not.

    Attributes:
        name: of the folder.
        query: images, in the order of their names.
        gallery: images, in the order of their names.
        has_cameras: whether the cameras come from the file names.
        sides_are_cameras: see `Layout`.
    """

    __test__ = False  # it is no test case, whatever pytest makes of its name

    name: str
    query: tuple[LabelledImage, ...]
    gallery: tuple[LabelledImage, ...]
    has_cameras: bool
    sides_are_cameras: bool = False

    def score_query(self, labels: Labels) -> Labels:
        """Labels of queries as the ranking takes them."""
        return _by(QUERY_CAMERA, labels) if self.sides_are_cameras else labels

    def score_gallery(self, labels: Labels) -> Labels:
        """Labels of gallery images as the ranking takes them."""
        return _by(GALLERY_CAMERA, labels) if self.sides_are_cameras else labels


def _by(camera: str, labels: Labels) -> Labels:
    return Labels(labels.identity, np.full(len(labels), camera))


def read_test_set(folder: Path) -> TestSet:
    """Find queries and gallery in a data set's folder.

    Raises:
        SourceError: no such folder, none of the known layouts, a folder without a labelled image, or cameras named for
            some images only.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder: give the folder of a data set")
    layout = next((one for one in LAYOUTS if all((folder / part).is_dir() for part in (one.query, one.gallery))), None)
    if layout is None:
        raise SourceError(f"{folder} is none of the known data sets: looked for {_looked_for()}; {_found(folder)}")
    query, gallery = (_read_part(folder / part) for part in (layout.query, layout.gallery))
    cameras = [bool(image.camera) for image in (*query, *gallery)]
    if any(cameras) and not all(cameras):
        first = next(image for image in (*query, *gallery) if not image.camera)
        raise SourceError(f"{first.path} names no camera, other images of {folder} do: name it like them (_c1)")
    if not any(cameras):
        query = [replace(image, camera=QUERY_CAMERA) for image in query]
        gallery = [replace(image, camera=GALLERY_CAMERA) for image in gallery]
    return TestSet(folder.resolve().name, tuple(query), tuple(gallery), any(cameras), layout.sides_are_cameras)


def _read_part(folder: Path) -> list[LabelledImage]:
    """Read one of the two folders: named as in Market-1501, a folder for each identity, or 001_001.jpg."""
    flat = list(_flat(folder))
    return flat or read_labelled(folder)


def _flat(folder: Path) -> Iterator[LabelledImage]:
    for path in sorted(folder.iterdir()):
        match = _FLAT_NAME.match(path.name)
        if match and path.suffix.lower() in SUFFIXES and path.is_file():
            yield LabelledImage(path, match["identity"], "")


def _looked_for() -> str:
    return "; ".join(f"{one.query} and {one.gallery} ({one.name})" for one in LAYOUTS)


def _found(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"found the folders {', '.join(names[:8])}{more}" if names else "found no folder in it"
