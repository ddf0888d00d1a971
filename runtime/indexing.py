"""Labelled images become gallery entries: decoded ahead by threads, encoded in batches, added in transactions."""

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.datasets import LabelledImage, read_labelled
from runtime.encoder import Encoder
from runtime.errors import GalleryError, ImageError
from runtime.folders import whole_folder
from runtime.gallery.catalogue import DATABASE_NAME
from runtime.gallery.gallery import DEFAULT_SETTINGS, Gallery
from runtime.gallery.records import NewEntry, Settings
from runtime.images import read_image, resize

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

BATCH = 16
_DECODERS = min(4, os.cpu_count() or 1)
_BATCHES_AHEAD = 3
# Images of one transaction: at 242 patches of 768 numbers an entry takes 0.37 MB.
_AT_ONCE = 64


@dataclass(frozen=True)
class IndexResult:
    """What became of the images of a source.

    Attributes:
        added: ids of the new entries.
        duplicates: how many images were in the gallery already (or twice in the source).
        conflicts: how many of those are there under another identity, which was left as it is.
        unreadable: images that could not be read.
    """

    added: tuple[int, ...] = ()
    duplicates: int = 0
    conflicts: int = 0
    unreadable: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Decoded:
    image: LabelledImage
    content_hash: str
    crop: NDArray[np.uint8]


def build_gallery(
    bundle: Bundle,
    source: Path,
    out: Path,
    tokens: Literal["full", "cls"] = "full",
    engine: str = "auto",
    batch: int = BATCH,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    expires_at: float | None = None,
    actor: str | None = None,
    reason: str = "",
    settings: Settings = DEFAULT_SETTINGS,
) -> IndexResult:
    """Make a gallery of a labelled source; it appears at `out` when it is whole, or not at all.

    Args:
        bundle: whose dense encoder makes the entries.
        source: see `runtime.datasets.read_labelled`.
        out: folder to make.
        tokens: "cls" stores no patch tokens.
        engine: see `runtime.engines.open_engine`.
        batch: images of one run of the encoder.
        progress: told of each batch.
        overwrite: replace a gallery that is there.
        expires_at: when the entries expire, in seconds since 1970; None keeps them.
        actor: who asks, for the audit log.
        reason: why, for the audit log.
        settings: of the gallery.

    Raises:
        GalleryError: `out` is in use, no image could be read, or the disk failed.
        SourceError: the source fits no layout.
        BundleError, EngineError: the encoder cannot be loaded.
    """
    source, out = Path(source), Path(out)
    facts = bundle.manifest.model
    patches = facts.patches if tokens == "full" else 0
    with whole_folder(out, overwrite=overwrite, markers=(DATABASE_NAME,), error=GalleryError) as beside:
        images = read_labelled(source)
        with Gallery.create(beside, bundle.binding, facts.embed_dim, patches, settings=settings) as gallery:
            result = _add(
                gallery, bundle, images, engine, batch, progress, NewEntry("-", expires_at=expires_at), actor, reason
            )
            gallery.fold()
        if not result.added:
            raise GalleryError(f"none of the {len(images)} images of {source} could be read: no gallery was made")
    return result


def add_images(
    gallery: Gallery,
    bundle: Bundle,
    source: Path,
    engine: str = "auto",
    batch: int = BATCH,
    progress: Progress | None = None,
    *,
    expires_at: float | None = None,
    actor: str | None = None,
    reason: str = "",
) -> IndexResult:
    """Add the images of a labelled source to a gallery that is open for writing; those it holds are left out.

    Interrupted, it leaves whole images behind; run again, it takes up where it stopped. See `build_gallery`.
    """
    if differences := gallery.binding.differences(bundle.binding):
        raise GalleryError(f"{gallery.folder} was made by another bundle: {'; '.join(differences)}")
    images = read_labelled(Path(source))
    blank = NewEntry("-", expires_at=expires_at)
    return _add(gallery, bundle, images, engine, batch, progress, blank, actor, reason)


def _add(
    gallery: Gallery,
    bundle: Bundle,
    images: Sequence[LabelledImage],
    engine: str,
    batch: int,
    progress: Progress | None,
    blank: NewEntry,
    actor: str | None,
    reason: str,
) -> IndexResult:
    if batch < 1:
        raise GalleryError(f"a batch of {batch} images is none: give at least 1")
    encoder = Encoder(bundle, sparse=False, engine=engine)
    loading = _Loading(gallery, bundle, images, progress)
    added: list[int] = []
    duplicates = conflicts = 0
    for group in _in_groups(loading, max(1, _AT_ONCE // batch) * batch):
        parts = [_encode(encoder, bundle, group[at : at + batch]) for at in range(0, len(group), batch)]
        cls, descriptor, patches = (np.concatenate(part) for part in zip(*parts, strict=True))
        records = [
            replace(
                blank,
                identity=one.image.identity,
                camera=one.image.camera,
                source=_text(one.image.path),
                content_hash=one.content_hash,
            )
            for one in group
        ]
        kept = patches if gallery.layout.patches else None
        result = gallery.add(records, cls, descriptor, kept, actor=actor, reason=reason)
        added += result.added
        duplicates += len(result.duplicates)
        conflicts += len(result.conflicts)
    return IndexResult(
        tuple(added), duplicates + loading.known, conflicts + loading.conflicts, tuple(loading.unreadable)
    )


class _Loading:
    """Yields decoded images, read by threads some batches ahead; unreadable and known ones are counted, not yielded."""

    def __init__(
        self, gallery: Gallery, bundle: Bundle, images: Sequence[LabelledImage], progress: Progress | None
    ) -> None:
        self.unreadable: list[Path] = []
        self.known = 0
        self.conflicts = 0
        self._gallery = gallery
        self._images = images
        self._progress = progress
        self._size = (bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)

    def __iter__(self) -> Iterator[_Decoded]:
        waiting: deque[tuple[LabelledImage, Future[_Decoded | str]]] = deque()
        remaining = iter(self._images)
        done = 0
        with ThreadPoolExecutor(_DECODERS, "decode") as pool:
            try:
                while True:
                    for image in remaining:
                        waiting.append((image, pool.submit(self._load, image)))
                        if len(waiting) >= _BATCHES_AHEAD * BATCH:
                            break
                    if not waiting:
                        return
                    found = self._take(*waiting.popleft())
                    done += 1
                    if found:
                        yield found
                    if self._progress:
                        self._progress(done, len(self._images))
            finally:
                for _, future in waiting:
                    future.cancel()

    def _load(self, image: LabelledImage) -> _Decoded | str:
        """Read, hash and resize one image; for one that the gallery holds, its hash alone."""
        try:
            digest = hashlib.sha256(image.path.read_bytes()).hexdigest()
        except (OSError, ValueError) as error:
            raise ImageError(f"{image.path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if self._gallery.holder_of(digest) is not None:
            return digest
        return _Decoded(image, digest, resize(read_image(image.path), *self._size))

    def _take(self, image: LabelledImage, future: "Future[_Decoded | str]") -> _Decoded | None:
        try:
            found = future.result()
        except ImageError as error:
            log.warning("%s: left out", error)
            self.unreadable.append(image.path)
            return None
        if isinstance(found, _Decoded):
            return found
        self.known += 1
        holder = self._gallery.holder_of(found)
        self.conflicts += holder is not None and holder[1] != image.identity
        return None


def _in_groups(images: _Loading, size: int) -> Iterator[list[_Decoded]]:
    group: list[_Decoded] = []
    for one in images:
        group.append(one)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _encode(
    encoder: Encoder, bundle: Bundle, group: Sequence[_Decoded]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    cameras = bundle.manifest.cameras
    index = [cameras.index_of(one.image.camera) for one in group]
    found = encoder.encode(np.stack([one.crop for one in group]), np.array(index, np.int64))
    return found.cls, found.descriptor, found.patches


def _text(path: Path) -> str:
    """The whole path as Unicode text; a name in no known encoding keeps what can be read of it."""
    return os.fsencode(path.absolute()).decode("utf-8", "replace")
