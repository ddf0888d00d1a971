"""Small made-up galleries: vectors that follow from the number of their image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Binding, Preprocessing
from runtime.gallery import AddResult, Gallery, NewEntry, Settings
from runtime.gallery.disk import Disk

DIMENSION = 32
PATCHES = 6
BINDING = Binding(model_hash="a" * 64, precision="fp32", preprocessing=Preprocessing(height=64, width=32))
SMALL = Settings(segment_entries=16, index_from=40, fold_after=20, lock_seconds=5)
"""Small enough that segments fill and HNSW is kept in a gallery of dozens."""


@dataclass(frozen=True)
class Images:
    """n made-up images; image k always has the same vectors."""

    records: list[NewEntry]
    cls: NDArray[np.float32]
    descriptor: NDArray[np.float32]
    patches: NDArray[np.float16]


def images(numbers: Iterable[int]) -> Images:
    """Images by number: four of an identity, cameras in turn."""
    numbers = list(numbers)
    parts = [np.random.default_rng(k).standard_normal((2 + PATCHES, DIMENSION)) for k in numbers]
    values = np.array(parts).reshape(len(numbers), 2 + PATCHES, DIMENSION).astype(np.float32)
    records = [
        NewEntry(identity_of(k), f"camera-{k % 3}", f"/pictures/person-{k // 4}/{k:05d}.jpg", f"hash-{k:05d}")
        for k in numbers
    ]
    return Images(records, values[:, 0], values[:, 1], values[:, 2:].astype(np.float16))


def identity_of(number: int) -> str:
    """Whose image it is."""
    return f"Person Nr {number // 4:05d}"


def number_of(source: str) -> int:
    """The image that an entry was made of."""
    return int(Path(source).stem)


def add(gallery: Gallery, numbers: Sequence[int] | range) -> AddResult:
    """Add images by number."""
    batch = images(numbers)
    return gallery.add(batch.records, batch.cls, batch.descriptor, batch.patches)


def create(folder: Path, numbers: Sequence[int] | range = (), disk: Disk | None = None) -> Gallery:
    """A gallery of images by number, open for writing."""
    gallery = Gallery.create(folder, BINDING, DIMENSION, PATCHES, settings=SMALL, disk=disk)
    if len(numbers):
        add(gallery, numbers)
    return gallery


def reopen(folder: Path, writable: bool = False, disk: Disk | None = None, salvage: bool = False) -> Gallery:
    """Open a made-up gallery."""
    return Gallery.open(folder, BINDING, writable, settings=SMALL, disk=disk, salvage=salvage)


def held(gallery: Gallery) -> set[int]:
    """Numbers of the images that a gallery holds, each checked to be whole and under its own identity."""
    if not len(gallery):
        return set()
    snapshot = gallery.snapshot()
    entries = snapshot.entries(snapshot.rows.ids.tolist())
    tokens = snapshot.tokens(snapshot.rows.ids)
    numbers = [number_of(entry.source) for entry in entries]
    expected = images(numbers)
    np.testing.assert_array_equal(tokens.cls, expected.cls)
    np.testing.assert_array_equal(tokens.patches, expected.patches)
    np.testing.assert_array_equal(snapshot.raw("descriptor", np.arange(len(snapshot))), expected.descriptor)
    assert [entry.identity for entry in entries] == [record.identity for record in expected.records]
    assert len(set(numbers)) == len(numbers)
    return set(numbers)
