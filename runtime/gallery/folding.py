"""Keeps HNSW near the truth: entries gather outside it, searched exactly, and are taken in when they are many.

So an addition costs the same in a gallery of any size, and the file of links is written whole but rarely.
"""

import logging
import zlib
from collections.abc import Iterator
from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.gallery import graph as hnsw
from runtime.gallery import graph_file
from runtime.gallery.catalogue import seal
from runtime.gallery.follower import Follower
from runtime.gallery.graph import Graph
from runtime.gallery.graph_file import GRAPH_NAME
from runtime.gallery.records import SPACES, Settings, Space
from runtime.gallery.snapshot import Snapshot
from runtime.gallery.stored_graphs import AT_ONCE, GraphRow, read_graph, read_graph_rows
from runtime.gallery.writer import Writer

log = logging.getLogger(__name__)

# A graph with more removed nodes than this share is built anew rather than extended.
MOST_REMOVED = 0.2


def fold_if_due(writer: Writer, follower: Follower, settings: Settings) -> None:
    """Fold when the gallery is large enough and enough entries have gathered outside HNSW."""
    entries = len(follower.current)
    if entries < settings.index_from:
        return
    rows = read_graph_rows(writer.catalogue)
    inside = min((_inside(rows[space], follower.current) if space in rows else 0) for space in SPACES)
    if entries - inside >= max(settings.fold_after, settings.fold_fraction * entries):
        fold(writer, follower, settings)


def fold(writer: Writer, follower: Follower, settings: Settings) -> None:
    """Write HNSW over all live entries; drop it where the gallery has become small."""
    follower.follow()
    snapshot = follower.current
    old = read_graph_rows(writer.catalogue)
    number = follower.head.change + 1
    new: list[GraphRow] = []
    if len(snapshot) >= settings.index_from:
        new = [_written(writer, old.get(space), snapshot, number, space, settings) for space in SPACES]
    if not new and not old:
        return
    with writer.catalogue.change() as change:
        change.connection.execute("DELETE FROM graphs")
        for row in new:
            values = astuple(row)
            change.connection.execute("INSERT INTO graphs VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, seal(*values)))
    writer.disk.discard(writer.leftovers())
    follower.follow()


def _inside(row: GraphRow, snapshot: Snapshot) -> int:
    return int(np.searchsorted(snapshot.rows.ids, row.last_entry, "right"))


def _written(
    writer: Writer, old: GraphRow | None, snapshot: Snapshot, number: int, space: Space, settings: Settings
) -> GraphRow:
    """Write the graph of one vector to its file; nothing of it stays in memory."""
    graph = None if old is None else _grown(writer, old, snapshot, space)
    graph = graph or _built(snapshot, space, settings)
    content = graph_file.to_bytes(graph, space)
    writer.disk.publish(writer.folder / GRAPH_NAME.format(space, number), content)
    return GraphRow(space, number, len(content), zlib.crc32(content), len(graph), graph.last_entry)


def _grown(writer: Writer, row: GraphRow, snapshot: Snapshot, space: Space) -> Graph | None:
    """The graph of the file with the later entries taken in; None where it must be built anew."""
    inside = _inside(row, snapshot)
    if row.nodes - inside > MOST_REMOVED * row.nodes:
        return None
    try:
        graph = read_graph(writer.folder, row, snapshot)
    except GalleryError as error:
        log.warning("%s: %s; building it anew", writer.folder, error)
        return None
    for ids, units in _units(snapshot, space, inside):
        if graph.basis is not None and hnsw.carried(units, graph.basis) < hnsw.LEAST_CARRIED:
            log.info("%s: later entries differ from those HNSW was made for; building it anew", writer.folder)
            return None
        hnsw.extend(graph, ids, units)
    return graph


def _built(snapshot: Snapshot, space: Space, settings: Settings) -> Graph:
    dimension, basis = snapshot.layout.dimension, None
    if dimension > settings.index_coordinates:
        chosen = np.unique(np.linspace(0, len(snapshot) - 1, hnsw.LEARNT_FROM).astype(np.int64))
        units, good = snapshot.units(space, chosen)
        basis = hnsw.learn_basis(units[good], settings.index_coordinates)
    graph = hnsw.empty(len(snapshot), dimension, basis, settings)
    for ids, units in _units(snapshot, space, 0):
        hnsw.extend(graph, ids, units)
    return graph


def _units(snapshot: Snapshot, space: Space, first: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Ids and unit vectors of the good rows from `first` on, in parts."""
    for at in range(first, len(snapshot), AT_ONCE):
        positions = np.arange(at, min(at + AT_ONCE, len(snapshot)))
        units, good = snapshot.units(space, positions)
        yield snapshot.rows.ids[positions[good]], units[good]
