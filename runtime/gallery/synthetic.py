"""A gallery of made-up people, of any size within seconds: for measuring, where no real one is at hand.

Images of a person share a direction for each patch, and people share one of a few kinds; so entries lie in clusters, as
an encoder's do. Tokens are made within the span of a compact codec's basis, so that nothing has to be projected.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.encoder import Features
from runtime.gallery.codecs import INT8, TokenCodec, coordinates_of, is_learned, make_codec
from runtime.gallery.gallery import DEFAULT_SETTINGS, Gallery
from runtime.gallery.records import NewEntry, Settings

CLS_ONLY = "cls"
_IMAGES_A_PERSON = 20
"""About as many as Occluded-Duke's gallery has of each person (17,661 of 1,110; arXiv 2211.14742, section 4)."""
_KINDS = 64
_PERSON, _IMAGE = 0.6, 0.5
"""Length of what tells a person from its kind, and an image from its person, beside a kind of length 1."""
_TOKEN_NORM = 20.0
_NOISE = 2**22  # numbers drawn once; every image reads its noise from another place
_AT_ONCE = 128


class SyntheticPeople:
    """Vectors and tokens of made-up images; image k shows person k // 20 and is always the same.

    Args:
        dimension: D.
        patches: N.
        codec: of the gallery; its basis spans the tokens.
        seed: of everything.
    """

    def __init__(self, dimension: int, patches: int, codec: TokenCodec, seed: int = 0) -> None:
        self.dimension, self.patches, self.codec, self._seed = dimension, patches, codec, seed
        rng = np.random.default_rng(seed)
        width = dimension if codec.basis is None else codec.basis.shape[1]
        self._noise: NDArray[np.float32] = rng.standard_normal(_NOISE, np.float32)
        self._kinds: NDArray[np.float32] = rng.standard_normal((_KINDS, 2 * dimension), np.float32)
        self._kind_tokens: NDArray[np.float32] = rng.standard_normal((_KINDS, patches, width), np.float32)

    def vectors(self, first: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[cls] and descriptor of images, (count, D) float32 each."""
        found = np.stack([self._mixed(self._kinds, image) for image in range(first, first + count)])
        return found[:, : self.dimension], found[:, self.dimension :]

    def coordinates(self, image: int) -> NDArray[np.float32]:
        """(N, R) float32 coordinates of an image's tokens in the codec's basis; (N, D) where it has none."""
        return self._mixed(self._kind_tokens, image)

    def records(self, first: int, count: int) -> NDArray[np.void]:
        """(count,) records of images in the codec."""
        records = np.empty(count, self.codec.record(self.patches, self.dimension))
        for row in range(count):
            coordinates = self.coordinates(first + row)
            if self.codec.basis is None:
                records["tokens"][row] = coordinates
            else:
                norms = np.linalg.norm(coordinates, axis=1)
                self.codec.store(records[row, ...], coordinates, norms)
        return records

    def queries(self, images: NDArray[np.int64], patches: int) -> Features:
        """Queries that look like images of the gallery, with the first `patches` of their tokens."""
        cls, descriptor = (np.concatenate(parts) for parts in zip(*(self.vectors(int(i), 1) for i in images)))  # noqa: B905
        tokens = np.stack([self.coordinates(int(image))[:patches] for image in images])
        if self.codec.basis is not None:
            tokens = tokens @ self.codec.basis.T
        noise = np.random.default_rng([self._seed, 1])
        tokens += _IMAGE * _TOKEN_NORM / self.dimension**0.5 * noise.standard_normal(tokens.shape, np.float32)
        cls = cls + _IMAGE * np.abs(cls).mean() * noise.standard_normal(cls.shape, np.float32)
        return Features(cls, tokens, descriptor)

    def _mixed(self, kinds: NDArray[np.float32], image: int) -> NDArray[np.float32]:
        """Kind + person + image, of one shape."""
        person = image // _IMAGES_A_PERSON
        kind = kinds[person % _KINDS]
        found = kind + _PERSON * self._draw(2 * person, kind.size).reshape(kind.shape)
        found += _IMAGE * self._draw(2 * image + 1, kind.size).reshape(kind.shape)
        found *= np.float32(_TOKEN_NORM / kind.shape[-1] ** 0.5)
        return np.asarray(found, np.float32)

    def _draw(self, number: int, size: int) -> NDArray[np.float32]:
        start = int(np.random.default_rng([self._seed, number]).integers(0, _NOISE - size))
        return self._noise[start : start + size]


def synthetic_people(bundle: Bundle, tokens: str = "float16", seed: int = 0) -> SyntheticPeople:
    """Made-up people in the sizes of a bundle's model.

    Args:
        bundle: whose gallery they could be.
        tokens: "float16", "int8", "svd-R", or "cls" for a gallery without patches.
        seed: of everything.
    """
    facts = bundle.manifest.model
    if tokens == CLS_ONLY:
        return SyntheticPeople(facts.embed_dim, 0, TokenCodec(), seed)
    if is_learned(tokens):  # any basis will do, as the tokens are made within its span
        whole = make_codec(INT8, facts.embed_dim).basis
        codec = TokenCodec(tokens, np.ascontiguousarray(whole[:, : coordinates_of(tokens, facts.embed_dim)]))  # type: ignore[index]
    else:
        codec = make_codec(tokens, facts.embed_dim)
    return SyntheticPeople(facts.embed_dim, facts.patches, codec, seed)


def synthetic_gallery(
    folder: Path,
    bundle: Bundle,
    entries: int,
    seed: int = 0,
    tokens: str = "float16",
    settings: Settings = DEFAULT_SETTINGS,
) -> SyntheticPeople:
    """Make a gallery of made-up people in `folder`, which must not exist or be empty; return the people.

    Args:
        folder: of the gallery.
        bundle: that the gallery is bound to.
        entries: how many images, 20 a person.
        seed: the same seed makes the same gallery.
        tokens: see `synthetic_people`.
        settings: of the gallery.

    Raises:
        GalleryError: the folder is in use, no codec of that name, or the disk failed.
    """
    people = synthetic_people(bundle, tokens, seed)
    with Gallery.create(
        folder, bundle.binding, people.dimension, people.patches, codec=people.codec, settings=settings
    ) as gallery:
        for first, count in _parts(entries):
            cls, descriptor = people.vectors(first, count)
            patches = people.records(first, count) if people.patches else None
            gallery.add([_record(image) for image in range(first, first + count)], cls, descriptor, patches, fold=False)
        gallery.fold()
    return people


def _parts(entries: int) -> Iterator[tuple[int, int]]:
    for first in range(0, entries, _AT_ONCE):
        yield first, min(_AT_ONCE, entries - first)


def _record(image: int) -> NewEntry:
    return NewEntry(f"person {image // _IMAGES_A_PERSON:05d}", f"camera {image % 8}", content_hash=f"{image:064x}")
