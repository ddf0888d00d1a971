"""Follows the database of a gallery: keeps the current snapshot, and brings it up to date by what changed.

What changed is read in one transaction: rows added or moved after the last change seen, and ids removed after it. The
running sum of seals must then agree with the head; where it does not, everything is read anew. HNSW is loaded by a
thread of its own, and searches are exact until it is there.
"""

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.gallery.catalogue import Catalogue, Head
from runtime.gallery.graph import Graph
from runtime.gallery.records import Layout, Settings, Space
from runtime.gallery.rows import Reading, Rows, check_total, read_rows
from runtime.gallery.segments import Segment
from runtime.gallery.snapshot import Snapshot
from runtime.gallery.stored_graphs import GraphRow, read_graph, read_graph_rows

log = logging.getLogger(__name__)

_TRIES = 5
# A removed entry that a query under way still holds stays readable this long after its removal was seen.
_GRACE_SECONDS = 1.0


class Follower:
    """The reading half of a gallery.

    Args:
        folder: the gallery.
        catalogue: a connection to its database.
        layout: shape of its records.
        settings: how old the view may be, and when HNSW is used.
        salvage: go on in spite of rows that are gone.

    Attributes:
        current: the newest snapshot.
        rows: entries of the database; `current` lacks those that are damaged or whose time is over.
        head: state of the database that `current` shows.
        removals: rises whenever `rows` loses an entry.
        damaged: ids of entries left out because they are damaged, and why.
    """

    def __init__(self, folder: Path, catalogue: Catalogue, layout: Layout, settings: Settings, salvage: bool) -> None:
        self.folder = folder
        self._catalogue = catalogue
        self.layout = layout
        self._settings = settings
        self._salvage = salvage
        self.rows = Rows.of([])
        self.head = Head(change=-1)
        self.damaged: dict[int, str] = {}
        self.removals = 0
        self._news = self.rows  # read, and not yet checked to lie within the files
        self._short = False
        self._segments: dict[int, Segment] = {}
        self._graphs: dict[Space, Graph] = {}
        self._graph_rows: dict[Space, GraphRow] = {}
        self._refused: set[GraphRow] = set()
        self._loader: threading.Thread | None = None
        self._stopped = False
        self._checked_at = -np.inf
        self._lock = threading.RLock()  # guards all of the above; queries take it for a refresh only
        self.current = self._snapshot(self.rows)
        # When entries went, what they were, and the segments that held them then.
        self._gone: tuple[tuple[float, Rows, dict[int, Segment]], ...] = ()

    def stop(self) -> None:
        """Wait for the thread that loads HNSW, if there is one."""
        self._stopped = True
        if self._loader:
            self._loader.join()

    def fresh(self) -> Snapshot:
        """The current snapshot, brought up to date first where it was last checked too long ago."""
        if time.monotonic() - self._checked_at >= self._settings.refresh_seconds:
            self.follow()
        snapshot = self.current
        if len(snapshot) >= self._settings.index_from and self._graphs_wanted():
            self._start_loading()
        return snapshot

    def holding(self, ids: NDArray[np.int64]) -> Snapshot:
        """The snapshot to read ids from: the current one, joined with the entries that went while in their grace."""
        current = self.current
        if current.rows.find(ids)[1].all():
            return current
        rows, segments = current.rows, dict(current.segments)
        limit = time.monotonic() - _GRACE_SECONDS
        for at, gone, held in self._gone:
            if at >= limit:
                rows, segments = rows.with_rows(gone), {**held, **segments}
        return Snapshot(rows.without(self.damaged), segments, {}, self.layout, self.quarantine)

    def follow(self) -> bool:
        """Bring the snapshot up to date; return whether the entries changed.

        Raises:
            GalleryError: the database is damaged, or another one lies in its place.
            sqlite3.Error: the database cannot be read.
        """
        with self._lock:
            started = time.monotonic()
            # what went is let go of here, or deleted segments would stay mapped until the next removal
            self._gone = tuple(one for one in self._gone if one[0] >= started - _GRACE_SECONDS)
            self._catalogue.check_in_place()
            self._catalogue.reopen_if_frozen()
            changed = self._read_changes()
            if not changed and self.current.rows.next_expiry <= time.time():
                self._publish()
                changed = True
            self._checked_at = started
            return changed

    def reset(self) -> None:
        """Read everything anew, as when the gallery was opened."""
        with self._lock:
            self.head, self.damaged = Head(change=-1), {}
            self._segments, self._graphs, self._refused = {}, {}, set()
            self.follow()

    def quarantine(self, ids: Iterable[int], what: str) -> None:
        """Leave entries out of all answers from now on, and say so once."""
        with self._lock:
            news = [id_ for id_ in ids if id_ not in self.damaged]
            for id_ in news:
                self.damaged[id_] = what
                log.error(
                    "%s: entry %d is damaged: %s; it is left out: run `fpc-deploy index verify --repair`",
                    self.folder,
                    id_,
                    what,
                )
            if news:
                self._publish()

    def load_graphs(self) -> None:
        """Load the HNSW that the database knows of, where it is not loaded yet."""
        for row in self._graphs_wanted():
            try:
                graph = read_graph(self.folder, row, self.current)
            except Exception as error:  # hnswlib's too, and a MemoryError: tried again at each search, it would stall
                reason = f"{type(error).__name__}: {error}"
                log.warning("%s: %s; searching exactly: `index verify --repair` rebuilds it", self.folder, reason)
                self._refused.add(row)
                continue
            with self._lock:
                labels = np.asarray(graph.index.get_ids_list(), np.int64)
                graph.forget(np.setdiff1d(labels, self.current.rows.ids))
                self._graphs = {**self._graphs, row.space: graph}
                self._publish()

    def _graphs_wanted(self) -> list[GraphRow]:
        loaded = self._graphs
        return [
            row
            for row in self._graph_rows.values()
            if row not in self._refused and (row.space not in loaded or loaded[row.space].change != row.change)
        ]

    def _start_loading(self) -> None:
        with self._lock:
            if self._stopped or (self._loader and self._loader.is_alive()):
                return
            self._loader = threading.Thread(target=self.load_graphs, name="gallery-graphs", daemon=True)
            self._loader.start()

    def _read_changes(self) -> bool:
        """Read what changed in the database, map what it names, and publish a snapshot of it."""
        full = self.head.change < 0
        for attempt in range(_TRIES):
            with self._catalogue.snapshot():
                head = self._catalogue.head()
                if head.change == self.head.change and not full:
                    return False
                if not full and not self._apply(head):
                    full = True
                if full:
                    self._read_all(head)
                slots = self._catalogue.segments()
                graph_rows = read_graph_rows(self._catalogue)
            if self._map(slots) or attempt == _TRIES - 1:
                break
            full = True  # a compaction took files away meanwhile: look again
        # A graph in memory stays in use when its file goes: what was removed is marked in it, what is new lies outside.
        self.head, self._graph_rows = head, graph_rows
        self._publish()
        return True

    def _apply(self, head: Head) -> bool:
        """Apply additions, moves and removals since the last change seen; False where they do not add up."""
        reading = read_rows(self._catalogue, self.head.change)
        gone = np.array(
            self._catalogue.connection.execute(
                "SELECT entry FROM removed WHERE change > ?", (self.head.change,)
            ).fetchall(),
            np.int64,
        ).reshape(-1)
        if reading.damaged:
            return False
        replaced = np.union1d(gone, reading.rows.ids)
        positions, known = self.rows.find(replaced)
        old = sum(self.rows.row(int(position)).seal for position in positions[known])
        rows = self.rows.without(gone.tolist()).with_rows(reading.rows)
        if len(rows) != head.entries or self.head.checksum - old + reading.checksum != head.checksum:
            return False
        positions, known = self.rows.find(gone)
        if known.any():
            self.removals += 1
            self._let_go(self.rows.take(positions[known]))
        self.rows, self._news = rows, reading.rows
        for graph in self._graphs.values():
            graph.forget(gone)
        return True

    def _read_all(self, head: Head) -> None:
        reading: Reading = read_rows(self._catalogue)
        try:
            check_total(self._catalogue, reading, head)
        except GalleryError as error:
            if not self._salvage:
                raise
            log.error("%s", error)
        self.removals += 1
        self._let_go(self.rows.take(~reading.rows.find(self.rows.ids)[1]))
        self.rows = self._news = reading.rows
        self._note_damage(reading.damaged, "its row in the database does not match its checksum")
        for graph in self._graphs.values():
            graph.forget(np.setdiff1d(np.asarray(graph.index.get_ids_list(), np.int64), self.rows.ids))

    def _let_go(self, rows: Rows) -> None:
        """Keep entries that went readable for their grace."""
        if len(rows):
            self._gone = (*self._gone, (time.monotonic(), rows, self._segments))

    def _note_damage(self, ids: Iterable[int], what: str) -> None:
        for id_ in ids:
            if id_ not in self.damaged:
                log.error("%s: entry %s is damaged: %s; it is left out", self.folder, id_, what)
                self.damaged[id_] = what

    def _map(self, slots: dict[int, int]) -> bool:
        """Map the segments that the rows name; return whether every record is there."""
        segments = {}
        for number, count in slots.items():
            segments[number] = self._segments.get(number) or Segment(self.folder, number, self.layout)
            segments[number].grow(count)
        self._segments = segments
        self._short = any(segments[number].slots < count for number, count in slots.items())
        return not self._short

    def _cut_off(self, rows: Rows) -> NDArray[np.int64]:
        """Ids of entries whose record the files do not hold."""
        numbers, inverse = np.unique(rows.segment, return_inverse=True)
        held = [self._segments[n].slots if n in self._segments else 0 for n in numbers.tolist()]
        outside = (rows.slot >= np.array(held, np.int64)[inverse]) | (rows.slot < 0)
        return rows.ids[outside]

    def _publish(self) -> None:
        """Make the snapshot that queries see from now on."""
        if self._short or len(self._news):  # all rows where a file is short, else those just read
            cut_off = self._cut_off(self.rows if self._short else self._news)
            self._note_damage(cut_off.tolist(), "its record is cut off or its file is missing")
            self._news = self._news.take(np.empty(0, np.int64))
        rows = self.rows.without(self.damaged) if self.damaged else self.rows
        if rows.next_expiry <= (now := time.time()):
            expired = rows.take(rows.expires <= now)
            self._let_go(expired.take(self.current.rows.find(expired.ids)[1]))
            rows = rows.take(rows.expires > now)
        for graph in self._graphs.values():
            graph.forget(np.array(sorted(self.damaged), np.int64))
        self.current = self._snapshot(rows)

    def _snapshot(self, rows: Rows) -> Snapshot:
        return Snapshot(rows, self._segments, self._graphs, self.layout, self.quarantine)
