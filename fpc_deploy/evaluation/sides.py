"""The two sides of a comparison: encoded queries, and a gallery on disk as `run` reads it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.protocol import Labels
from fpc_deploy.evaluation.crops import Crops, Progress, camera_indices, read_crops
from runtime.bundle import Bundle
from runtime.datasets import LabelledImage
from runtime.encoder import Features
from runtime.errors import SourceError
from runtime.gallery import Gallery
from runtime.gallery.records import NewEntry, Settings

EXACT = Settings(index_from=2**31)
"""A gallery that never keeps HNSW: what approximate search misses is no matter of the model."""


class CropEncoder(Protocol):
    """Anything that encodes crops as `runtime.encoder.Encoder` does."""

    def encode(self, crops: NDArray[np.uint8], camera: NDArray[np.int64]) -> Features:
        """Encode (B, H, W, 3) uint8 crops of (B,) cameras."""


@dataclass(frozen=True)
class KnownPeople:
    """A gallery made of a test set.

    Attributes:
        gallery: open; the caller closes it.
        labels: of its G entries, in the order of `entries`.
        entries: (G,) int64 ids, ascending.
        descriptors: (G, D) float32 unit vectors.
    """

    gallery: Gallery
    labels: Labels
    entries: NDArray[np.int64]
    descriptors: NDArray[np.float32]

    def columns(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of entry ids among `entries`."""
        return np.searchsorted(self.entries, entries)


def read_queries(images: Sequence[LabelledImage], bundle: Bundle, batch: int, progress: Progress) -> Crops:
    """Read all query images that can be read.

    Raises:
        SourceError: none can.
    """
    parts = []
    for done, crops in read_crops(images, _size(bundle), batch):
        progress("reading queries", done, len(images))
        parts.append(crops)
    read = tuple(image for part in parts for image in part.images)
    if not read:
        raise SourceError(f"none of the {len(images)} query images can be read: see the warnings above")
    return Crops(read, np.concatenate([part.pixels for part in parts]))


def encode_queries(
    encoder: CropEncoder, bundle: Bundle, crops: Crops, batch: int, progress: Progress, *, with_patches: bool
) -> Features:
    """Encode queries in batches; patches, which take much memory, only where something will read them."""
    camera = camera_indices(bundle.manifest.cameras, crops.images)
    parts: list[Features] = []
    for start in range(0, len(crops.images), batch):
        part = slice(start, start + batch)
        found = encoder.encode(crops.pixels[part], camera[part])
        parts.append(found if with_patches else Features(found.cls, found.patches[:, :0], found.descriptor))
        progress("encoding queries", min(start + batch, len(camera)), len(camera))
    cls, patches, descriptor = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("cls", "patches", "descriptor")
    )
    return Features(cls, patches, descriptor)


def fill_gallery(
    images: Sequence[LabelledImage],
    encoder: CropEncoder,
    bundle: Bundle,
    folder: Path,
    batch: int,
    progress: Progress,
    *,
    with_patches: bool = True,
) -> KnownPeople:
    """Encode the gallery images of a test set into a new gallery.

    Other than `fpc-deploy index build`, which keeps one of two equal files, it keeps every image: the protocol counts
    them all.

    Raises:
        SourceError: no image can be read.
        GalleryError: the folder cannot be written.
    """
    model = bundle.manifest.model
    patches_per_entry = model.patches if with_patches else 0
    gallery = Gallery.create(folder, bundle.binding, model.embed_dim, patches_per_entry, settings=EXACT)
    kept: list[LabelledImage] = []
    ids: list[int] = []
    for done, crops in read_crops(images, _size(bundle), batch):
        if crops.images:
            found = encoder.encode(crops.pixels, camera_indices(bundle.manifest.cameras, crops.images))
            patches = found.patches if with_patches else None
            ids += gallery.add([_record(one) for one in crops.images], found.cls, found.descriptor, patches).added
            kept += crops.images
        progress("building the gallery", done, len(images))
    if not kept:
        gallery.close()
        raise SourceError(f"none of the {len(images)} gallery images can be read: see the warnings above")
    snapshot = gallery.snapshot()
    descriptors, _ = snapshot.units("descriptor", np.arange(len(snapshot)))
    labels = Labels.of([(image.identity, image.camera) for image in kept])
    return KnownPeople(gallery, labels, np.array(ids, np.int64), descriptors)


def _record(image: LabelledImage) -> NewEntry:
    # Equal files are told apart by their paths, which may hold bytes that are no text.
    digest = hashlib.sha256(bytes(image.path)).hexdigest()
    return NewEntry(image.identity, image.camera, content_hash=digest)


def _size(bundle: Bundle) -> tuple[int, int]:
    return bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width
