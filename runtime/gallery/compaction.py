"""Gives the space of removed entries back, and takes their bytes off the disk.

Segments with removed entries are copied without them, a group that fits one new segment at a time, and each group is
switched over in one transaction; so compaction needs room for one more segment, not for one more gallery. HNSW with
removed nodes is built anew: their links would still tell who was near to whom.
"""

import logging
import time
from collections.abc import Iterator

import numpy as np

from runtime.errors import GalleryError
from runtime.gallery import audit
from runtime.gallery.folding import fold
from runtime.gallery.follower import Follower
from runtime.gallery.records import Compaction, Settings
from runtime.gallery.rows import Row, Rows
from runtime.gallery.segments import Segment
from runtime.gallery.stored_graphs import read_graph_rows
from runtime.gallery.writer import Writer

log = logging.getLogger(__name__)

# A full segment with fewer live entries than this share is merged with others though nothing was removed from it.
_SPARSE = 0.5
_CHECKPOINT_SECONDS = 10.0


def compact(writer: Writer, follower: Follower, settings: Settings, actor: str | None, reason: str) -> Compaction:
    """Compact a gallery; see `Gallery.compact`."""
    before = _bytes(writer)
    follower.follow()
    _drop_stale_graphs(writer, follower)
    segments = moved = 0
    for numbers in _groups(writer, follower):
        moved += _rewrite(writer, follower, numbers)
        segments += len(numbers)
    writer.recover()
    fold(writer, follower, settings)
    with writer.catalogue.change() as change:
        audit.write(change, actor, "compact", [], reason)
    clean_database(writer)
    follower.follow()
    return Compaction(segments, moved, before, _bytes(writer))


def clean_database(writer: Writer) -> None:
    """Rewrite the database without free pages, and empty the WAL into it."""
    connection = writer.catalogue.connection
    connection.execute("VACUUM")
    deadline = time.monotonic() + _CHECKPOINT_SECONDS
    # A reader in the middle of its (short) transaction holds a checkpoint up.
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            log.warning("%s: a reader holds the database: run `index compact` again to empty its WAL", writer.folder)
            return
        time.sleep(0.02)


def _drop_stale_graphs(writer: Writer, follower: Follower) -> None:
    """Delete HNSW that holds removed entries."""
    ids = follower.rows.ids
    rows = read_graph_rows(writer.catalogue).values()
    if all(np.searchsorted(ids, row.last_entry, "right") == row.nodes for row in rows):
        return
    with writer.catalogue.change() as change:
        change.connection.execute("DELETE FROM graphs")
    writer.disk.discard(writer.leftovers())
    follower.follow()


def _groups(writer: Writer, follower: Follower) -> Iterator[list[int]]:
    """Segments to rewrite, in groups whose live entries fit one segment."""
    capacity = writer.layout.segment_entries
    slots = writer.catalogue.segments()
    live = {number: int((follower.rows.segment == number).sum()) for number in slots}
    last = max(slots, default=0)
    dirty = [n for n in slots if live[n] < slots[n] or (n != last and live[n] < _SPARSE * capacity)]
    if len(dirty) == 1 and live[dirty[0]] == slots[dirty[0]]:
        return  # a single sparse segment has nothing to merge with
    group: list[int] = []
    for number in dirty:
        if group and sum(live[n] for n in group) + live[number] > capacity:
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def _rewrite(writer: Writer, follower: Follower, numbers: list[int]) -> int:
    """Copy the live entries of some segments into a new one, switch over, and delete the old files."""
    rows = follower.rows.take(np.isin(follower.rows.segment, numbers))
    target = writer.catalogue.head().next_segment
    segments = {n: Segment(writer.folder, n, writer.layout) for n in numbers}
    for number, slots in writer.catalogue.segments().items():
        if number in segments:
            segments[number].grow(slots)
    moved = [_moved(rows.row(i), target, i) for i in range(len(rows))]
    if moved:
        _copy(writer, rows, segments, target)
    with writer.catalogue.change() as change:
        if moved:
            change.put_segment(target, len(moved))
            change.update(next_segment=target + 1)
        change.connection.executemany(
            "UPDATE entries SET segment=?, slot=?, seal=?, change=? WHERE id=?",
            ((row.segment, row.slot, row.seal, change.head.change, row.id) for row in moved),
        )
        change.connection.executemany("DELETE FROM segments WHERE number=?", ((n,) for n in numbers))
        writer.recount(change)
    writer.disk.discard(writer.leftovers())
    follower.follow()
    return len(moved)


def _copy(writer: Writer, rows: Rows, segments: dict[int, Segment], target: int) -> None:
    """Write the records of `rows`, as they are, to a new segment."""
    vectors, tokens = [], []
    for number, slot in zip(rows.segment.tolist(), rows.slot.tolist(), strict=True):
        if slot >= segments[number].slots:
            raise GalleryError(
                f"{writer.folder}: the record in slot {slot} of segment {number} is cut off, nothing was rewritten; "
                f"run `fpc-deploy index verify --repair {writer.folder}`, then compact again"
            )
        vector, token = segments[number].record(slot)
        vectors.append(vector)
        tokens.append(token)
    writer.copy(target, vectors, tokens)


def _moved(row: Row, segment: int, slot: int) -> Row:
    values = list(row.values())
    values[7:9] = [segment, slot]
    return Row(*values)  # type: ignore[arg-type]


def _bytes(writer: Writer) -> int:
    return sum(path.stat().st_size for path in writer.folder.iterdir() if path.is_file())
