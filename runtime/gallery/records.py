"""Small frozen records that go in and out of a gallery."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from runtime.gallery.codecs import FULL_TOKENS, TokenCodec

Space = Literal["cls", "descriptor"]
SPACES: tuple[Space, ...] = ("cls", "descriptor")


@dataclass(frozen=True)
class Settings:
    """How a gallery works; the size of segments is fixed when it is made, the rest may differ at each opening.

    Attributes:
        refresh_seconds: how old a reader's view may be when a query starts.
        index_from: live entries from which HNSW is kept; below it every search is exact (see docs/gallery.md for the
            measurement behind the number).
        fold_after: entries outside HNSW, searched exactly, after which the writer takes them in.
        fold_fraction: the same as a share of the gallery; the larger of the two counts.
        segment_bytes: aimed size of a segment, vectors and tokens together; what compaction rewrites at a time.
        segment_entries: entries of a segment, in place of `segment_bytes`.
        links: links of an HNSW node (M).
        build_effort: candidates looked at when a node is added (ef_construction).
        index_coordinates: numbers of a vector in HNSW; longer vectors are reduced to as many where little is lost by
            it, and what HNSW then proposes is scored by the whole ones. `2**31` keeps all whole. HNSW that is there
            already stays as it was made until it is built anew.
        lock_seconds: how long to wait for another writer.
    """

    refresh_seconds: float = 1.0
    index_from: int = 10_000
    fold_after: int = 5_000
    fold_fraction: float = 0.05
    segment_bytes: int = 2**29
    segment_entries: int | None = None
    links: int = 16
    build_effort: int = 200
    index_coordinates: int = 192
    lock_seconds: float = 10.0


@dataclass(frozen=True)
class Layout:
    """Shape of the records of a gallery.

    Attributes:
        dimension: D, length of [cls], of the descriptor and of a patch token.
        patches: N, patch tokens an entry; 0 where only [cls] tokens are kept.
        segment_entries: how many entries a segment holds.
        codec: how patch tokens are stored.
    """

    dimension: int
    patches: int
    segment_entries: int
    codec: TokenCodec = FULL_TOKENS

    @property
    def vector_bytes(self) -> int:
        """Bytes of [cls] and descriptor of an entry, float32."""
        return 2 * self.dimension * 4

    @property
    def token_bytes(self) -> int:
        """Bytes of the patch tokens of an entry."""
        return self.codec.record(self.patches, self.dimension).itemsize if self.patches else 0


@dataclass(frozen=True)
class NewEntry:
    """What is known of an image that is to be added.

    Attributes:
        identity: whose image it is; not empty.
        camera: name of the camera, or "".
        source: path or URL it came from, or "".
        content_hash: hexadecimal hash of the image; "" takes one over its vectors. The same hash is the same entry.
        expires_at: seconds since 1970 (UTC) after which the entry is no longer an answer; None keeps it.
        added_at: ISO 8601 UTC; "" means now. Set by import and merge, which keep the first date.
    """

    identity: str
    camera: str = ""
    source: str = ""
    content_hash: str = ""
    expires_at: float | None = None
    added_at: str = ""


@dataclass(frozen=True)
class AddResult:
    """What an addition did.

    Attributes:
        added: ids of the new entries, in the order given.
        duplicates: (position in what was given, id of the entry that already holds this image).
        conflicts: the positions among them whose identity differs from that of the entry; the entry was left as it is.
    """

    added: tuple[int, ...]
    duplicates: tuple[tuple[int, int], ...] = ()
    conflicts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something wrong in a gallery.

    Attributes:
        entry: the entry it concerns, or None where it concerns no single one.
        where: file or table.
        what: what is wrong with it.
        repaired: whether it was put right.
    """

    entry: int | None
    where: str
    what: str
    repaired: bool = False

    def __str__(self) -> str:
        entry = "" if self.entry is None else f"entry {self.entry}: "
        return f"{self.where}: {entry}{self.what}{' (repaired)' if self.repaired else ''}"


@dataclass(frozen=True)
class Verification:
    """What `Gallery.verify` found.

    Attributes:
        entries: live entries checked.
        problems: what is wrong, repaired or not.
        recall: share of the exact nearest 10 that HNSW finds, by space; empty where there is no HNSW.
        lost: (id, identity, source) of damaged entries that the repair had to drop; add their images again.
    """

    entries: int
    problems: tuple[Problem, ...]
    recall: Mapping[str, float] = field(default_factory=dict)
    lost: tuple[tuple[int, str, str], ...] = ()

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, or everything wrong was repaired."""
        return all(problem.repaired for problem in self.problems)


@dataclass(frozen=True)
class Compaction:
    """What `Gallery.compact` did: segments rewritten or dropped, entries moved, bytes before and after."""

    segments: int
    moved: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class AuditRecord:
    """A line of the audit log: who asked for what, when, of how many entries (ids as ranges), and why."""

    at: str
    actor: str
    action: str
    count: int
    entries: str
    reason: str


@dataclass(frozen=True)
class Info:
    """Facts of a gallery, as `index info` shows them; sizes in bytes."""

    folder: str
    entries: int
    identities: int
    cameras: int
    dimension: int
    patches_per_entry: int
    tokens: str
    token_bytes_per_entry: int
    segments: int
    removed_not_compacted: int
    expiring: int
    indexed: Mapping[str, int]
    bytes: int
    created_at: str
    model_hash: str
    precision: str
    change: int
