"""The HNSW that a gallery keeps on disk: what the database says of it, and loading it."""

import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import GalleryError
from runtime.gallery import graph_file
from runtime.gallery.catalogue import Catalogue, seal
from runtime.gallery.disk import open_plain
from runtime.gallery.graph import Graph, reduced
from runtime.gallery.graph_file import GRAPH_NAME
from runtime.gallery.records import SPACES, Space
from runtime.gallery.snapshot import Snapshot

log = logging.getLogger(__name__)

# Vectors are read and reduced in parts: a large gallery's do not fit the memory beside the graph.
AT_ONCE = 16_384


@dataclass(frozen=True)
class GraphRow:
    """What the database says of a graph file."""

    space: Space
    change: int
    bytes: int
    crc: int
    nodes: int
    last_entry: int


def read_graph_rows(catalogue: Catalogue) -> dict[Space, GraphRow]:
    """The graphs that the database knows of; one whose row is damaged is left out, with a word in the log."""
    found: dict[Space, GraphRow] = {}
    for *content, sealed in catalogue.connection.execute(
        "SELECT space, change, bytes, crc, nodes, last_entry, seal FROM graphs"
    ):
        if seal(*content) != sealed or content[0] not in SPACES:
            log.warning("%s: the row of a graph is damaged; searching exactly", catalogue.path)
            continue
        found[content[0]] = GraphRow(*content)
    return found


def read_graph(folder: Path, row: GraphRow, snapshot: Snapshot) -> Graph:
    """Load a graph: its links from its file, its vectors from the segments.

    Raises:
        GalleryError: the file is missing, is not the one that the database names, or its links lead outside.
    """
    links = graph_file.parse(_content(folder, row), row.space, snapshot.layout.dimension)
    positions, good = snapshot.rows.find(links.labels)
    nodes = graph_file.blank_nodes(links, snapshot.layout.dimension)
    for at in range(0, len(nodes), AT_ONCE):
        part = slice(at, at + AT_ONCE)
        known = np.flatnonzero(good[part])
        units, good[at + known] = snapshot.units(row.space, positions[at + known])
        nodes["unit"][at + known] = reduced(units, links.basis)
    return graph_file.assemble(links, nodes, ~good, row.change)


def _content(folder: Path, row: GraphRow) -> bytes:
    path = folder / GRAPH_NAME.format(row.space, row.change)
    try:
        fd = open_plain(path)
    except OSError as error:
        raise GalleryError(f"{path.name} cannot be read: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        content = file.read(row.bytes + 1) if os.fstat(fd).st_size == row.bytes else b""
    if zlib.crc32(content) != row.crc or len(content) != row.bytes:
        raise GalleryError(f"{path.name} does not match its checksum")
    return content
