"""The live entries as a reader holds them: columns sorted by id, never changed once made."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.gallery.catalogue import Catalogue, Head, seal
from runtime.gallery.protocol import Entry

_COLUMNS = (
    "id, identity, camera, source, content_hash, added_at, expires_at, segment, slot, vector_crc, token_crc, seal"
)

# Read at a time: all at once, what SQLite answers takes more memory than the columns that are made of it.
_READ_AT_ONCE = 10_000


@dataclass(frozen=True)
class Row:
    """One entry of the database. `seal` is the stored checksum of the rest."""

    id: int
    identity: str
    camera: str
    source: str
    content_hash: str
    added_at: str
    expires_at: float | None
    segment: int
    slot: int
    vector_crc: int
    token_crc: int

    def values(self) -> tuple[object, ...]:
        """What the seal is taken over."""
        return (
            self.id,
            self.identity,
            self.camera,
            self.source,
            self.content_hash,
            self.added_at,
            self.expires_at,
            self.segment,
            self.slot,
            self.vector_crc,
            self.token_crc,
        )

    @property
    def seal(self) -> int:
        """Checksum of the row."""
        return seal(*self.values())


@dataclass(frozen=True)
class Rows:
    """n live entries, sorted by id.

    Attributes:
        ids: (n,) int64.
        segment: (n,) int64, number of the segment that holds the records.
        slot: (n,) int64, place in it.
        vector_crc: (n,) int64, CRC-32 of [cls] and descriptor.
        token_crc: (n,) int64, CRC-32 of the patch tokens.
        expires: (n,) float64, seconds since 1970; infinity where the entry does not expire.
        texts: (n,) objects, each (identity, camera, source, added_at, content_hash).
    """

    ids: NDArray[np.int64]
    segment: NDArray[np.int64]
    slot: NDArray[np.int64]
    vector_crc: NDArray[np.int64]
    token_crc: NDArray[np.int64]
    expires: NDArray[np.float64]
    texts: NDArray[np.object_]

    @classmethod
    def of(cls, records: list[tuple[object, ...]]) -> "Rows":
        """Make columns of tuples in the order of `Row.values`, sorted by id."""
        texts = np.fromiter(((r[1], r[2], r[3], r[5], r[4]) for r in records), object, len(records))
        numbers = np.array([(r[0], r[7], r[8], r[9], r[10]) for r in records], np.int64).reshape(-1, 5)
        ids, segment, slot, vector_crc, token_crc = np.ascontiguousarray(numbers.T)
        expires = np.array([np.inf if r[6] is None else r[6] for r in records], np.float64)
        return cls(ids, segment, slot, vector_crc, token_crc, expires, texts)

    @classmethod
    def joined(cls, parts: list["Rows"]) -> "Rows":
        """Parts one after another, their ids ascending throughout."""
        if not parts:
            return cls.of([])
        return cls(*(np.concatenate(columns) for columns in zip(*(part._columns() for part in parts), strict=True)))

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def next_expiry(self) -> float:
        """When the first entry expires, in seconds since 1970."""
        return float(self.expires.min()) if len(self) else np.inf

    def take(self, positions: NDArray[np.int64] | NDArray[np.bool_]) -> "Rows":
        """The rows at `positions`."""
        return Rows(*(column[positions] for column in self._columns()))

    def without(self, ids: Iterable[int]) -> "Rows":
        """The rows whose id is not among `ids`."""
        gone, known = self.find(np.fromiter(ids, np.int64))
        if not known.any():
            return self
        keep = np.ones(len(self), bool)
        keep[gone[known]] = False
        return self.take(keep)

    def with_rows(self, other: "Rows") -> "Rows":
        """These rows and `other`, which replaces those of the same id."""
        mine = self.without(other.ids.tolist())
        joined = Rows.joined([mine, other])
        if len(mine) and len(other) and mine.ids[-1] > other.ids[0]:
            return joined.take(np.argsort(joined.ids))
        return joined

    def find(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the position of each id, and whether it is there (where not, the position means nothing)."""
        positions = np.searchsorted(self.ids, ids)
        positions[positions == len(self)] = 0
        known = self.ids[positions] == ids if len(self) else np.zeros(len(ids), bool)
        return positions, known

    def positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of each id.

        Raises:
            GalleryError: an id is not a live entry.
        """
        found, known = self.find(np.asarray(ids, np.int64))
        if not known.all():
            raise GalleryError(
                f"entry {np.asarray(ids)[~known][0]} is not in the gallery: it was removed, or never was"
            )
        return found

    def entry(self, position: int) -> Entry:
        """The entry at a position."""
        identity, camera, source, added_at, _ = self.texts[position]
        return Entry(int(self.ids[position]), identity, camera, source, added_at)

    def row(self, position: int) -> Row:
        """The row at a position, as the database holds it."""
        identity, camera, source, added_at, content_hash = self.texts[position]
        expires = float(self.expires[position])
        return Row(
            int(self.ids[position]),
            identity,
            camera,
            source,
            content_hash,
            added_at,
            None if expires == np.inf else expires,
            int(self.segment[position]),
            int(self.slot[position]),
            int(self.vector_crc[position]),
            int(self.token_crc[position]),
        )

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return (self.ids, self.segment, self.slot, self.vector_crc, self.token_crc, self.expires, self.texts)


@dataclass(frozen=True)
class Reading:
    """Rows read from the database: those that match their seals, ids of those that do not, and the sum of seals."""

    rows: Rows
    damaged: tuple[int, ...]
    checksum: int


def read_rows(catalogue: Catalogue, after: int | None = None) -> Reading:
    """Read the entries, or those added or moved after change `after`; call within `Catalogue.snapshot`."""
    query = f"SELECT {_COLUMNS} FROM entries"  # noqa: S608 (a constant)
    records = (
        catalogue.connection.execute(f"{query} ORDER BY id")
        if after is None
        # Left to itself, SQLite reads the whole table rather than sort a few rows.
        else catalogue.connection.execute(f"{query} INDEXED BY entries_change WHERE change > ? ORDER BY id", (after,))
    )
    identities = _names(catalogue, "identities", after)
    cameras = _names(catalogue, "cameras", after)
    parts: list[Rows] = []
    damaged: list[int] = []
    checksum, date = 0, ""
    while part := records.fetchmany(_READ_AT_ONCE):
        good = []
        for id_, identity, camera, source, content_hash, added_at, *rest, sealed in part:
            date = date if date == added_at else added_at  # one string for all that were added together
            record = (id_, identities.get(identity), cameras.get(camera), source, content_hash, date, *rest)
            if seal(*record) == sealed:
                good.append(record)
                checksum += sealed
            else:
                damaged.append(id_)
        parts.append(Rows.of(good))
    return Reading(Rows.joined(parts), tuple(damaged), checksum)


def _names(catalogue: Catalogue, table: Literal["identities", "cameras"], after: int | None) -> dict[int, str]:
    """Names by number: all of them, or those of the entries changed after `after`."""
    query = f"SELECT id, name FROM {table}"  # noqa: S608 (one of two constants)
    if after is None:
        return dict(catalogue.connection.execute(query))
    column = "identity" if table == "identities" else "camera"
    changed = f"SELECT {column} FROM entries WHERE change > ?"  # noqa: S608 (likewise)
    return dict(catalogue.connection.execute(f"{query} WHERE id IN ({changed})", (after,)))


def check_total(catalogue: Catalogue, reading: Reading, head: Head) -> None:
    """Check that the rows are all there and are those that were written.

    Raises:
        GalleryError: a row vanished, came back, or was swapped, with nothing to tell which.
    """
    count = len(reading.rows) + len(reading.damaged)
    if count != head.entries:
        raise catalogue.damaged(f"it holds {count} entries where {head.entries} were written")
    if not reading.damaged and reading.checksum != head.checksum:
        raise catalogue.damaged("its entries are not those that were written")
