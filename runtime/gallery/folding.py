"""Keeps HNSW near the truth: entries gather outside it, searched exactly, and are taken in when they are many.

So an addition costs the same in a gallery of any size, and the file of links is written whole but rarely.
"""

import logging
import zlib
from dataclasses import astuple

import numpy as np

from runtime.errors import GalleryError
from runtime.gallery import graph as hnsw
from runtime.gallery.catalogue import seal
from runtime.gallery.follower import Follower, GraphRow, read_graph, read_graph_rows
from runtime.gallery.graph import GRAPH_NAME, Graph
from runtime.gallery.records import SPACES, Settings, Space
from runtime.gallery.snapshot import Snapshot
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
    new: dict[Space, tuple[GraphRow, bytes]] = {}
    if len(snapshot) >= settings.index_from:
        number = follower.head.change + 1
        for space in SPACES:
            graph = _grown(writer, old.get(space), snapshot, number, space, settings)
            content = hnsw.to_bytes(graph, space)
            row = GraphRow(space, number, len(content), zlib.crc32(content), len(graph), graph.last_entry)
            writer.disk.publish(writer.folder / GRAPH_NAME.format(space, number), content)
            new[space] = (row, content)
    if not new and not old:
        return
    with writer.catalogue.change() as change:
        change.connection.execute("DELETE FROM graphs")
        for row, _ in new.values():
            values = astuple(row)
            change.connection.execute("INSERT INTO graphs VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, seal(*values)))
    writer.disk.discard(writer.leftovers())
    follower.follow()


def _inside(row: GraphRow, snapshot: Snapshot) -> int:
    return int(np.searchsorted(snapshot.rows.ids, row.last_entry, "right"))


def _grown(
    writer: Writer, row: GraphRow | None, snapshot: Snapshot, number: int, space: Space, settings: Settings
) -> Graph:
    """The graph of the file with the later entries taken in, or a new one."""
    ids = snapshot.rows.ids
    if row is not None:
        inside = _inside(row, snapshot)
        try:
            if row.nodes - inside <= MOST_REMOVED * row.nodes:
                graph = read_graph(writer.folder, row, snapshot)
                units, good = snapshot.units(space, np.arange(inside, len(ids)))
                if good.any():
                    hnsw.extend(graph, ids[inside:][good], units[good], number)
                graph.change = number
                return graph
        except GalleryError as error:
            log.warning("%s: %s; building it anew", writer.folder, error)
    units, good = snapshot.units(space, np.arange(len(ids)))
    return hnsw.build(ids[good], units[good], number, settings)
