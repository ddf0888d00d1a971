"""Labelled images become gallery entries: decoded ahead by threads, encoded in batches, added in transactions.

    decoding threads -> the caller's thread encodes -> one writing thread

Every hand-over is bounded, and in the order of the images: the same source makes the same entries under the same ids.
While one group of entries is being written the next one is encoded; what a transaction promises stays as it is.
"""

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.ahead import map_ahead
from runtime.bundle import Bundle
from runtime.datasets import LabelledImage, read_labelled
from runtime.encoder import Encoder, Features
from runtime.errors import GalleryError, ImageError
from runtime.folders import whole_folder
from runtime.gallery.catalogue import DATABASE_NAME
from runtime.gallery.codecs import FULL_TOKENS
from runtime.gallery.conversion import FULL
from runtime.gallery.gallery import DEFAULT_SETTINGS, Gallery
from runtime.gallery.records import AddResult, NewEntry, Settings
from runtime.images import check_file, read_image, resize
from runtime.token_store import choose_codec

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

BATCH = 16
_BATCHES_AHEAD = 3
# Images of one transaction: at 242 patches of 768 numbers an image takes 0.74 MB until it is written.
_AT_ONCE = 64
# Transactions that may wait while one is under way.
_WAITING = 1


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
    tokens: str = FULL,
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
        tokens: "float16" (or "full"), "int8", "svd-R", or "cls" for no patch tokens; see docs/gallery.md.
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
    with whole_folder(out, overwrite=overwrite, markers=(DATABASE_NAME,), error=GalleryError) as beside:
        images = read_labelled(source)
        codec = choose_codec(bundle, images, tokens, engine, batch)
        patches = 0 if codec is None else facts.patches
        with Gallery.create(
            beside, bundle.binding, facts.embed_dim, patches, codec=codec or FULL_TOKENS, settings=settings
        ) as gallery:
            encoder = Encoder(bundle, sparse=False, engine=engine)
            result = add_encoded(
                gallery, bundle, encoder, images, batch, progress, expires_at=expires_at, actor=actor, reason=reason
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
    encoder = Encoder(bundle, sparse=False, engine=engine)
    return add_encoded(
        gallery, bundle, encoder, images, batch, progress, expires_at=expires_at, actor=actor, reason=reason
    )


def add_encoded(
    gallery: Gallery,
    bundle: Bundle,
    encoder: Encoder,
    images: Sequence[LabelledImage],
    batch: int = BATCH,
    progress: Progress | None = None,
    *,
    expires_at: float | None = None,
    actor: str | None = None,
    reason: str = "",
) -> IndexResult:
    """Add images with an encoder that is loaded already; see `add_images`."""
    if batch < 1:
        raise GalleryError(f"a batch of {batch} images is none: give at least 1")
    blank = NewEntry("-", expires_at=expires_at)
    loading = _Loading(gallery, bundle, images, progress, ahead=_BATCHES_AHEAD * batch)
    with _Writing(gallery, blank, actor, reason) as writing, closing(iter(loading)) as decoded:
        while group := list(islice(decoded, batch)):
            writing.put(group, _encode(encoder, bundle, group))
        results = writing.finish()
    return IndexResult(
        added=tuple(id_ for result in results for id_ in result.added),
        duplicates=loading.known + sum(len(result.duplicates) for result in results),
        conflicts=loading.conflicts + sum(len(result.conflicts) for result in results),
        unreadable=tuple(loading.unreadable),
    )


class _Writing:
    """Gathers batches and adds them to the gallery, one transaction after another, in a thread of its own.

    Left by an error or by Ctrl-C, it ends the transaction that is under way and begins no other.
    """

    def __init__(self, gallery: Gallery, blank: NewEntry, actor: str | None, reason: str) -> None:
        self._gallery = gallery
        self._blank = blank
        self._actor, self._reason = actor, reason
        self._pool = ThreadPoolExecutor(1, "write")
        self._gathered: list[tuple[Sequence[_Decoded], Features]] = []
        self._pending: deque[Future[AddResult]] = deque()
        self._done: list[AddResult] = []

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def put(self, group: Sequence[_Decoded], features: Features) -> None:
        """Take a batch; waits where too many transactions are waiting already.

        Raises:
            GalleryError: an earlier batch could not be written.
        """
        self._collect(_WAITING + 1)
        self._gathered.append((group, features))
        if sum(len(group) for group, _ in self._gathered) >= _AT_ONCE:
            self._hand_over()

    def finish(self) -> list[AddResult]:
        """Wait until all is written; return what became of each transaction, in order."""
        if self._gathered:
            self._hand_over()
        self._collect(0)
        return self._done

    def _collect(self, most: int) -> None:
        """Take in what is done, and wait until at most `most` transactions are pending; an error comes out here."""
        while self._pending and (len(self._pending) > most or self._pending[0].done()):
            self._done.append(self._pending.popleft().result())

    def _hand_over(self) -> None:
        self._collect(_WAITING)
        self._pending.append(self._pool.submit(self._add, self._gathered))
        self._gathered = []

    def _add(self, gathered: "Sequence[tuple[Sequence[_Decoded], Features]]") -> AddResult:
        records = [
            replace(
                self._blank,
                identity=one.image.identity,
                camera=one.image.camera,
                source=_text(one.image.path),
                content_hash=one.content_hash,
            )
            for group, _ in gathered
            for one in group
        ]
        parts = [features for _, features in gathered]
        cls = np.concatenate([part.cls for part in parts])
        descriptor = np.concatenate([part.descriptor for part in parts])
        patches = np.concatenate([part.patches for part in parts]) if self._gallery.layout.patches else None
        return self._gallery.add(records, cls, descriptor, patches, actor=self._actor, reason=self._reason)


class _Loading:
    """Yields decoded images, read ahead by threads; unreadable and known ones are counted, not yielded."""

    def __init__(
        self, gallery: Gallery, bundle: Bundle, images: Sequence[LabelledImage], progress: Progress | None, ahead: int
    ) -> None:
        self.unreadable: list[Path] = []
        self.known = 0
        self.conflicts = 0
        self._gallery = gallery
        self._images = images
        self._progress = progress
        self._ahead = ahead
        self._size = (bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)

    def __iter__(self) -> Generator[_Decoded]:
        with closing(map_ahead(self._load, self._images, self._ahead)) as loading:
            for done, (image, future) in enumerate(loading, 1):
                found = self._take(image, future)
                if found:
                    yield found
                if self._progress:
                    self._progress(done, len(self._images))

    def _load(self, image: LabelledImage) -> _Decoded | str:
        """Read, hash and resize one image; for one that the gallery holds, its hash alone."""
        check_file(image.path)
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


def _encode(encoder: Encoder, bundle: Bundle, group: Sequence[_Decoded]) -> Features:
    cameras = bundle.manifest.cameras
    index = [cameras.index_of(one.image.camera) for one in group]
    return encoder.encode(np.stack([one.crop for one in group]), np.array(index, np.int64))


def _text(path: Path) -> str:
    """The whole path as Unicode text; a name in no known encoding keeps what can be read of it."""
    return os.fsencode(path.absolute()).decode("utf-8", "replace")
