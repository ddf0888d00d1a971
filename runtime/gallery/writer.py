"""The one writer of a gallery: adds and removes entries.

Order of a change: records are appended to the data files and synced, then one SQLite transaction makes them entries.
Interrupted before its commit, nothing happened: records that no row names are overwritten by the next addition and cut
off when the gallery is next opened for writing.
"""

import hashlib
import math
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.gallery import audit
from runtime.gallery.catalogue import Catalogue, Change
from runtime.gallery.disk import PARTIAL_SUFFIX, Disk, open_plain
from runtime.gallery.graph_file import GRAPH_NAME
from runtime.gallery.records import AddResult, Layout, NewEntry, Settings
from runtime.gallery.rows import Row
from runtime.gallery.segments import TOKENS_NAME, VECTORS_NAME, record_crc

LOCK_NAME = "write.lock"
HOLDER_NAME = "write.holder"
_LONGEST_HOLDER = 1000


def lock_for_writing(folder: Path, settings: Settings) -> FileLock:
    """Take the lock of the one writer; the kernel gives it back when the process ends, however it ends.

    Raises:
        GalleryError: another writer held it all the while.
    """
    # thread_local: a gallery may be closed by another thread than the one that opened it.
    lock = FileLock(folder / LOCK_NAME, timeout=settings.lock_seconds, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        try:
            with os.fdopen(open_plain(folder / HOLDER_NAME), encoding="utf-8", errors="replace") as file:
                holder = file.read(_LONGEST_HOLDER).strip()
        except OSError:
            holder = "another process"
        raise GalleryError(
            f"{folder} is being written by {holder}; waited {settings.lock_seconds:g} s: try again later"
        ) from error
    except OSError as error:
        raise GalleryError(f"{folder} cannot be written: {error.strerror}") from error
    holder = f"process {os.getpid()} of {audit.user()} on {socket.gethostname()} since {audit.now()}"
    try:
        fd = os.open(folder / HOLDER_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(holder)
    except OSError as error:
        lock.release()
        raise GalleryError(f"{folder / HOLDER_NAME} cannot be written: {error.strerror or error}") from error
    return lock


@dataclass(frozen=True)
class Batch:
    """n entries with their vectors, checked and in the types of the files.

    Attributes:
        records: n entries, each with content hash and date.
        vectors: (n, 2, D) float32, [cls] and descriptor.
        tokens: (n, T) uint8, the T bytes of each entry's patch tokens in the gallery's codec.
    """

    records: Sequence[NewEntry]
    vectors: NDArray[np.float32]
    tokens: NDArray[np.uint8]


class Writer:
    """Writes to a gallery whose lock is held.

    Args:
        folder: the gallery.
        catalogue: a writable connection.
        layout: shape of its records.
        disk: how files are written.
    """

    def __init__(self, folder: Path, catalogue: Catalogue, layout: Layout, disk: Disk) -> None:
        self.folder = folder
        self.catalogue = catalogue
        self.layout = layout
        self.disk = disk

    def recover(self) -> None:
        """Delete and cut off what an interrupted writer left behind: nothing in the database names it."""
        segments = self.catalogue.segments()
        if self.catalogue.read_note() is None:
            self.catalogue.write_note(self.catalogue.head())
        self.disk.discard(self.leftovers())
        for number, slots in segments.items():
            for path, size in self._files(number):
                if path.exists() and path.stat().st_size > slots * size:
                    self.disk.shorten(path, slots * size)

    def leftovers(self) -> list[Path]:
        """Files of the gallery's own naming that the database does not name."""
        named = {path.name for number in self.catalogue.segments() for path, _ in self._files(number)}
        rows = self.catalogue.connection.execute("SELECT space, change FROM graphs")
        named |= {GRAPH_NAME.format(space, change) for space, change in rows}
        patterns = ("vectors-*.bin", "tokens-*.bin", "*.graph", f"*{PARTIAL_SUFFIX}")
        return [path for pattern in patterns for path in self.folder.glob(pattern) if path.name not in named]

    def add(self, batch: Batch, known: dict[str, tuple[int, str]], actor: str | None, reason: str) -> AddResult:
        """Add the entries whose content hash is not in `known` (hash to id and identity)."""
        head = self.catalogue.head()
        seen: dict[str, tuple[int, str]] = {}
        fresh: list[int] = []
        duplicates, conflicts = [], []
        for position, record in enumerate(batch.records):
            other = known.get(record.content_hash) or seen.get(record.content_hash)
            if other is None:
                seen[record.content_hash] = (head.next_entry + len(fresh), record.identity)
                fresh.append(position)
                continue
            duplicates.append((position, other[0]))
            if other[1] != record.identity:
                conflicts.append(position)
        if fresh:
            self._add_fresh(batch, fresh, head.next_entry, head.next_segment, actor, reason)
        ids = tuple(range(head.next_entry, head.next_entry + len(fresh)))
        return AddResult(ids, tuple(duplicates), tuple(conflicts))

    def remove(self, ids: Sequence[int], action: str, actor: str | None, reason: str) -> None:
        """Remove entries, and the names of identities and cameras that no entry has any more."""
        with self.catalogue.change() as change:
            query = "SELECT identity, camera, seal FROM entries WHERE id = ?"
            gone = [change.connection.execute(query, (id_,)).fetchone() for id_ in ids]
            change.connection.executemany("DELETE FROM entries WHERE id = ?", ((id_,) for id_ in ids))
            number = change.head.change
            change.connection.executemany("INSERT INTO removed VALUES (?, ?)", ((id_, number) for id_ in ids))
            audit.write(change, actor, action, ids, reason)
            audit.redact(change, _drop_orphans(change, "identities", "identity", {row[0] for row in gone}))
            _drop_orphans(change, "cameras", "camera", {row[1] for row in gone})
            head = change.head
            change.update(entries=head.entries - len(ids), checksum=head.checksum - sum(row[2] for row in gone))

    def recount(self, change: Change) -> None:
        """Take the number of entries and the sum of their seals from the rows."""
        count, total = change.connection.execute("SELECT COUNT(*), COALESCE(SUM(seal), 0) FROM entries").fetchone()
        change.update(entries=count, checksum=total)

    def copy(self, number: int, vectors: Iterable[memoryview], tokens: Iterable[memoryview]) -> None:
        """Write a segment from its start, record by record, and wait until it is on the disk."""
        for (path, _), pieces in zip(self._files(number), (vectors, tokens), strict=False):
            path.unlink(missing_ok=True)
            self.disk.store(path, 0, pieces)
        self.disk.sync_folder(self.folder)

    def _append(self, number: int, slot: int, vectors: NDArray[np.float32], tokens: NDArray[np.uint8]) -> None:
        """Write records to a segment from `slot` on, and wait until they are on the disk."""
        if slot == 0:
            self.copy(number, [vectors.data], [tokens.data])
            return
        for (path, size), piece in zip(self._files(number), (vectors.data, tokens.data), strict=False):
            self.disk.store(path, slot * size, [piece])

    def _files(self, number: int) -> list[tuple[Path, int]]:
        """Data files of a segment, and bytes of a record in each."""
        files = [(self.folder / VECTORS_NAME.format(number), self.layout.vector_bytes)]
        if self.layout.patches:
            files.append((self.folder / TOKENS_NAME.format(number), self.layout.token_bytes))
        return files

    def _add_fresh(
        self, batch: Batch, fresh: list[int], first: int, next_segment: int, actor: str | None, reason: str
    ) -> None:
        places, used = self._places(len(fresh), next_segment)
        at = 0
        for number, slot, count in places:
            chosen = fresh[at : at + count]
            self._append(number, slot, batch.vectors[chosen], batch.tokens[chosen])
            at += count
        rows = []
        slots = ((number, slot + i) for number, slot, count in places for i in range(count))
        for id_, (position, (number, slot)) in enumerate(zip(fresh, slots, strict=True), first):
            rows.append(_row(id_, batch, position, number, slot))
        with self.catalogue.change() as change:
            for number, slot, count in places:
                change.put_segment(number, slot + count)
            insert_rows(change, rows)
            head = change.head
            change.update(
                entries=head.entries + len(rows),
                checksum=head.checksum + sum(row.seal for row in rows),
                next_entry=first + len(rows),
                next_segment=used,
            )
            audit.write(change, actor, "add", [row.id for row in rows], reason)

    def _places(self, count: int, next_segment: int) -> tuple[list[tuple[int, int, int]], int]:
        """Return [(segment, first slot, how many)] for `count` records, and the next free segment number."""
        places = []
        segments = self.catalogue.segments()
        number = max(segments, default=0)
        slot = segments.get(number, self.layout.segment_entries)
        while count:
            if slot >= self.layout.segment_entries:
                number, slot, next_segment = next_segment, 0, next_segment + 1
            taken = min(count, self.layout.segment_entries - slot)
            places.append((number, slot, taken))
            slot, count = slot + taken, count - taken
        return places, next_segment


def insert_rows(change: Change, rows: Iterable[Row]) -> None:
    """Insert entries, and their identities and cameras where those are new."""
    connection = change.connection
    names: dict[str, dict[str, int]] = {"identities": {}, "cameras": {}}

    def number_of(table: str, name: str) -> int:
        if name not in names[table]:
            connection.execute(f"INSERT OR IGNORE INTO {table} (name) VALUES (?)", (name,))  # noqa: S608
            found = connection.execute(f"SELECT id FROM {table} WHERE name = ?", (name,)).fetchone()  # noqa: S608
            names[table][name] = found[0]
        return names[table][name]

    for row in rows:
        identity, camera = number_of("identities", row.identity), number_of("cameras", row.camera)
        content = (row.id, identity, camera, *row.values()[3:], row.seal, change.head.change)
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", content)


def _drop_orphans(change: Change, table: str, column: str, numbers: set[int]) -> list[str]:
    """Delete those of these identities or cameras that no entry has any more; return their names."""
    names = []
    for number in numbers:
        used = f"SELECT 1 FROM entries WHERE {column} = ? LIMIT 1"  # noqa: S608 (constants)
        if change.connection.execute(used, (number,)).fetchone() is None:
            query = f"DELETE FROM {table} WHERE id = ? RETURNING name"  # noqa: S608
            names += [name for (name,) in change.connection.execute(query, (number,)).fetchall()]
    return names


def check_batch(
    layout: Layout,
    records: Sequence[NewEntry],
    cls: NDArray[np.float32],
    descriptor: NDArray[np.float32],
    patches: NDArray[np.floating] | NDArray[np.void] | None,
) -> Batch:
    """Check what is to be added, and bring it into the types of the files.

    Raises:
        GalleryError: a wrong shape, a value that is not finite, a zero vector, patches missing, an empty identity, or
            text that is not Unicode.
    """
    n, shape = len(records), (len(records), layout.dimension)
    if cls.shape != shape or descriptor.shape != shape:
        raise GalleryError(f"cls {cls.shape} and descriptor {descriptor.shape} must both be {shape}")
    vectors = np.stack([cls, descriptor], axis=1).astype(np.float32)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=2)
    wrong = ~(np.isfinite(norms) & (norms > 0)).all(axis=1)
    tokens = np.empty((n, 0), np.uint8)
    if layout.patches:
        stored = _stored(layout, n, patches)
        wrong |= ~layout.codec.finite(stored)
        tokens = stored.view(np.uint8).reshape(n, layout.token_bytes)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise GalleryError(
            f"{records[first].source or f'image {first} of the batch'} has a vector that is zero, not finite or > 65504"
        )
    now = audit.now()  # one date for all: it is what they were added at, and readers keep it once
    filled = [_filled(record, vectors[i], now) for i, record in enumerate(records)]
    return Batch(filled, vectors, tokens)


def _stored(layout: Layout, n: int, patches: NDArray[np.floating] | NDArray[np.void] | None) -> NDArray[np.void]:
    """(n,) records of the gallery's codec, made of patch tokens or given as they are."""
    wanted, record = (n, layout.patches, layout.dimension), layout.codec.record(layout.patches, layout.dimension)
    if patches is not None and patches.dtype == record and patches.shape == (n,):
        return np.ascontiguousarray(patches, record)
    if patches is None or patches.dtype.names or patches.shape != wanted:
        raise GalleryError(f"patches are {None if patches is None else patches.shape}, the gallery takes {wanted}")
    return layout.codec.encode(patches.astype(np.float32, copy=False))


def _filled(record: NewEntry, vectors: NDArray[np.float32], now: str) -> NewEntry:
    if not record.identity:
        raise GalleryError(f"{record.source or 'an image'} has an empty identity")
    try:
        (record.identity + record.camera + record.source + record.content_hash).encode()
    except UnicodeEncodeError as error:
        raise GalleryError(f"{record.source!r} is not Unicode text: {error.reason}") from error
    digest = record.content_hash or hashlib.sha256(record.identity.encode() + vectors.tobytes()).hexdigest()
    expires = None if record.expires_at is None else float(record.expires_at)
    if expires == math.inf:  # never, which the database has no number for
        expires = None
    elif expires is not None and not math.isfinite(expires):
        raise GalleryError(f"{record.source or 'an image'} expires at {expires}: give seconds since 1970, or None")
    return replace(record, content_hash=digest, expires_at=expires, added_at=utc(record.added_at or now))


def utc(date: str) -> str:
    """Bring an ISO 8601 date to UTC with microseconds, so that dates sort as text."""
    try:
        found = datetime.fromisoformat(date.replace("Z", "+00:00"))
    except ValueError as error:
        raise GalleryError(f"{date!r} is not an ISO 8601 date: {error}") from error
    if found.tzinfo is None:
        found = found.replace(tzinfo=timezone.utc)
    return found.astimezone(timezone.utc).isoformat(timespec="microseconds")


def _row(id_: int, batch: Batch, position: int, segment: int, slot: int) -> Row:
    record = batch.records[position]
    return Row(
        id_,
        record.identity,
        record.camera,
        record.source,
        record.content_hash,
        record.added_at,
        record.expires_at,
        segment,
        slot,
        record_crc(id_, batch.vectors[position].data.cast("B")),
        record_crc(id_, batch.tokens[position].data) if batch.tokens.size else 0,
    )
