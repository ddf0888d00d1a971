"""What the runtime asks of a gallery.

The embedded one (`runtime.gallery.Gallery`) is the default; a gallery that lives in a vector database would implement
the same methods and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.gallery.codecs import FULL_TOKENS, TokenCodec


@dataclass(frozen=True)
class Entry:
    """One image of the gallery.

    Attributes:
        id: number of the entry, never given twice.
        identity: whose image it is.
        camera: name of the camera, or "".
        source: where the image came from (a path or URL), or "".
        added_at: when it was added, ISO 8601 UTC.
    """

    id: int
    identity: str
    camera: str
    source: str
    added_at: str


@dataclass(frozen=True)
class Candidates:
    """Nearest entries of B queries, best first.

    Attributes:
        entries: (B, C) int64 entry ids; C is the number asked for, or all live entries where there are fewer.
        cosine: (B, C) float32 cosine similarity, in -1..1.
    """

    entries: NDArray[np.int64]
    cosine: NDArray[np.float32]


@dataclass(frozen=True)
class Tokens:
    """Token memory of n entries.

    Attributes:
        cls: (n, D) float32, not normalised.
        patches: (n, N, D) float16, not normalised; None in a gallery that stores [cls] tokens only.
    """

    cls: NDArray[np.float32]
    patches: NDArray[np.float16] | None


@dataclass(frozen=True)
class StoredTokens:
    """Token memory of n entries as it is stored: what has to be fast works on this, without a copy on the way.

    Attributes:
        cls: (n, D) float32, not normalised.
        records: n records of the codec, each without axes, views of the gallery's files; None in a gallery of [cls]
            tokens only.
        order: (n,) int64, indices in the order of the disk: whoever reads all reads in this order.
        codec: what the records mean.
    """

    cls: NDArray[np.float32]
    records: Sequence[NDArray[np.void]] | None
    order: NDArray[np.int64]
    codec: TokenCodec

    @classmethod
    def of(cls, vectors: NDArray[np.float32], patches: NDArray[np.floating] | None) -> "StoredTokens":
        """Token memory that lies in memory: (n, D) [cls] tokens and (n, N, D) patches, kept as float16."""
        if patches is None:
            return cls(vectors, None, np.arange(len(vectors)), FULL_TOKENS)
        records = FULL_TOKENS.encode(patches)
        return cls(vectors, [records[row, ...] for row in range(len(records))], np.arange(len(records)), FULL_TOKENS)

    @property
    def patches_per_entry(self) -> int:
        """N, or 1 where [cls] stands for the patches."""
        return 1 if self.records is None else self.codec.patches_of(self.records[0])

    def take(self, which: NDArray[np.int64]) -> "StoredTokens":
        """The (m,) entries at `which`, in that order."""
        records = None if self.records is None else [self.records[row] for row in which.tolist()]
        place = np.argsort(self.order)
        return StoredTokens(self.cls[which], records, np.argsort(place[which], kind="stable"), self.codec)

    def patches(self, which: Sequence[int]) -> NDArray[np.float32]:
        """(m, N, D) float32 patch tokens of some of the entries; their [cls] where there are none, (m, 1, D)."""
        if self.records is None:
            return self.cls[np.asarray(which, np.int64), None]
        return self.codec.decode([self.records[row] for row in which])


class GalleryReader(Protocol):
    """A snapshot of a gallery that can be searched."""

    def __len__(self) -> int:
        """Number of live entries."""

    def search(self, cls: NDArray[np.float32], count: int) -> Candidates:
        """Find the `count` entries nearest to each of (B, D) [cls] tokens by cosine of [cls]."""

    def rank(self, descriptor: NDArray[np.float32], count: int) -> Candidates:
        """Find the `count` entries nearest to each of (B, D) descriptors by cosine of descriptors."""

    def compare(self, descriptor: NDArray[np.float32], entries: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (B, C) float32 cosines of (B, D) descriptors with those of (B, C) entries."""

    def tokens(self, entries: NDArray[np.int64]) -> Tokens:
        """Read the token memory of (n,) entries, in that order."""

    def stored(self, entries: NDArray[np.int64]) -> StoredTokens:
        """Find the token memory of (n,) entries where it lies, in that order."""

    def entries(self, ids: Sequence[int]) -> list[Entry]:
        """Look up entries by id, in that order."""

    def refresh(self) -> bool:
        """Follow additions and removals made since; return whether anything changed."""
