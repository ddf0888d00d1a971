"""Which token store a gallery gets, by name, and the way of a gallery into another one."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.folders import whole_folder
from runtime.gallery.catalogue import DATABASE_NAME
from runtime.gallery.codecs import FLOAT16, FULL_TOKENS, TokenCodec, make_codec
from runtime.gallery.gallery import DEFAULT_SETTINGS, Gallery
from runtime.gallery.interchange import add_from
from runtime.gallery.records import Settings

CLS_ONLY = "cls"
FULL = "full"
"""Another name of float16."""
SAMPLE = 256
"""Entries that a basis is learned from, spread over the gallery: with 242 patches each, 80 tokens a number of 768."""
_AT_ONCE = 16


def codec_of(tokens: str, dimension: int, sample: Iterable[NDArray[np.floating]]) -> TokenCodec | None:
    """Make the codec that `--tokens` names; None where patch tokens are not stored.

    Args:
        tokens: "float16" or "full", "int8", "svd-R", or "cls".
        dimension: D.
        sample: see `runtime.gallery.codecs.make_codec`.

    Raises:
        GalleryError: no token store of this name, or nothing to learn from.
    """
    if tokens == CLS_ONLY:
        return None
    return make_codec(FLOAT16 if tokens == FULL else tokens, dimension, sample)


def spread(count: int) -> NDArray[np.int64]:
    """Positions of at most `SAMPLE` of `count` things, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))


def convert_gallery(
    source: Gallery,
    out: Path,
    tokens: str,
    *,
    overwrite: bool = False,
    actor: str | None = None,
    reason: str = "",
    settings: Settings = DEFAULT_SETTINGS,
) -> int:
    """Write a gallery anew with another token store; it appears at `out` when it is whole, or not at all.

    Entries keep their order, dates and content hashes and get new ids; the audit log begins anew. `source` stays as it
    is. What a store has lost does not come back: convert the gallery that holds the most.

    Args:
        source: gallery to read.
        out: folder to make; not that of `source`.
        tokens: see `codec_of`.
        overwrite: replace a gallery that is at `out`.
        actor: who asks, for the audit log.
        reason: why, for the audit log.
        settings: of the new gallery.

    Returns:
        How many entries it holds.

    Raises:
        GalleryError: `source` is empty or stores no patches, no such token store, or `out` cannot be written.
    """
    out = Path(out)
    if out.resolve() == source.folder.resolve():
        raise GalleryError(f"{out} is the gallery to be converted: choose another --out")
    layout, snapshot = source.layout, source.snapshot()
    if not layout.patches and tokens != CLS_ONLY:
        raise GalleryError(f"{source.folder} stores no patch tokens: build it anew from its images")

    def sample() -> Iterator[NDArray[np.floating]]:
        ids = snapshot.rows.ids[spread(len(snapshot))]
        for at in range(0, len(ids), _AT_ONCE):
            patches = snapshot.tokens(ids[at : at + _AT_ONCE]).patches
            if patches is not None:
                yield patches

    codec = codec_of(tokens, layout.dimension, sample())
    patches = 0 if codec is None else layout.patches
    with (
        whole_folder(out, overwrite=overwrite, markers=(DATABASE_NAME,), error=GalleryError) as beside,
        Gallery.create(
            beside, source.binding, layout.dimension, patches, codec=codec or FULL_TOKENS, settings=settings
        ) as made,
    ):
        result = add_from(made, snapshot, actor, reason or f"converted to {tokens}")
    return len(result.added)
