"""The file of an HNSW graph.

It holds the links of the graph, the basis that its vectors were reduced by, and nothing else: no vector (those are read
from the segments, where each has a checksum). So it is some 1/20 of what hnswlib writes, is quick to check, and an
erased vector was never in it. It comes from a folder that may be hostile, and hnswlib believes what it reads: every
link is checked to stay inside before.

hnswlib itself is given the state that its own pickling takes (`Index(params=...)`).
"""

import json
import struct
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.gallery.graph import LEAST_EF, SEED, Graph
from runtime.gallery.records import Space

GRAPH_NAME = "{}-{:08d}.graph"
_MAGIC = b"FPCGRAPH"
_MAX_LEVEL = 32
_NOT_ORTHOGONAL = 1e-3
_CHECKED_AT_ONCE = 65_536


def to_bytes(graph: Graph, space: Space) -> bytes:
    """The links and the basis of a graph as the content of its file."""
    state = graph.index.__getstate__()[0]
    count, size = state["cur_element_count"], state["size_data_per_element"]
    level0 = state["data_level0"].view(np.uint8)[: count * size].reshape(count, size)
    links0 = np.ascontiguousarray(level0[:, : state["offset_data"]]).view(np.uint32)
    links0[:, 0] &= 0xFFFF  # the upper half holds the mark of a deleted node, which is the database's business
    labels = np.ascontiguousarray(level0[:, state["label_offset"] :]).view(np.uint64)[:, 0]
    header = {
        "hnswlib": version("hnswlib"),
        "space": space,
        "nodes": count,
        "links": state["M"],
        "build_effort": state["ef_construction"],
        "top_level": state["max_level"],
        "entry_node": state["enterpoint_node"],
        "last_entry": graph.last_entry,
        "upper_bytes": len(state["link_lists"]),
        "coordinates": 0 if graph.basis is None else graph.basis.shape[1],
    }
    text = json.dumps(header).encode()
    levels = state["element_levels"][:count].astype(np.int32)
    pieces = [labels.tobytes(), levels.tobytes(), links0.tobytes(), state["link_lists"].tobytes()]
    if graph.basis is not None:
        pieces.append(graph.basis.tobytes())
    return b"".join([_MAGIC, struct.pack("<I", len(text)), text, *pieces])


@dataclass(frozen=True)
class Links:
    """A graph file once it is parsed and every number in it was found to stay inside.

    Attributes:
        labels: (n,) int64 entry ids.
        levels: (n,) int32, the highest level of each node.
        links0: (n, 1 + 2M) uint32, number of links and the links of level 0.
        upper: the links of the levels above, as hnswlib lays them out.
        basis: (D, R) float32, columns orthonormal, that vectors are reduced by; None where they are whole.
    """

    labels: NDArray[np.int64]
    levels: NDArray[np.int32]
    links0: NDArray[np.uint32]
    upper: NDArray[np.int8]
    links: int
    build_effort: int
    top_level: int
    entry_node: int
    last_entry: int
    basis: NDArray[np.float32] | None


def parse(content: bytes, space: Space, dimension: int) -> Links:
    """Read a graph file of a gallery of D = `dimension`.

    Raises:
        GalleryError: it is not one, was made by another hnswlib, or a number in it points outside.
    """
    try:
        return _parse(content, space, dimension)
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise GalleryError(f"the HNSW links of {space} are damaged: {error}") from error


def _parse(content: bytes, space: Space, dimension: int) -> Links:
    if content[:8] != _MAGIC:
        raise ValueError("not a graph file")
    (length,) = struct.unpack_from("<I", content, 8)
    header = json.loads(content[12 : 12 + length])
    if (header["hnswlib"], header["space"]) != (version("hnswlib"), space):
        raise ValueError(f"made for {header['space']} by hnswlib {header['hnswlib']}")
    count, links = int(header["nodes"]), int(header["links"])
    if not (count > 0 and 2 <= links <= 1024):
        raise ValueError(f"{count} nodes of {links} links")
    coordinates = int(header.get("coordinates", 0))  # absent before vectors could be reduced
    if not 0 <= coordinates <= dimension:
        raise ValueError(f"{coordinates} coordinates of {dimension}")
    sizes = [8 * count, 4 * count, 4 * count * (1 + 2 * links), int(header["upper_bytes"]), 4 * dimension * coordinates]
    if min(sizes) < 0 or 12 + length + sum(sizes) != len(content):
        raise ValueError("its size does not fit its header")
    starts = 12 + length + np.cumsum([0, *sizes])
    parts = [content[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    found = Links(
        labels=np.frombuffer(parts[0], np.int64),
        levels=np.frombuffer(parts[1], np.int32),
        links0=np.frombuffer(parts[2], np.uint32).reshape(count, -1),
        upper=np.frombuffer(parts[3], np.int8),
        links=links,
        build_effort=int(header["build_effort"]),
        top_level=int(header["top_level"]),
        entry_node=int(header["entry_node"]),
        last_entry=int(header["last_entry"]),
        basis=np.frombuffer(parts[4], np.float32).reshape(dimension, coordinates) if coordinates else None,
    )
    _check_inside(found)
    _check_basis(found.basis)
    return found


def _check_inside(found: Links) -> None:
    """Check what hnswlib would follow without looking: it writes and reads out of bounds on a hostile graph."""
    count = len(found.labels)
    if len(np.unique(found.labels)) != count or found.labels.min() < 0 or found.labels.max() > found.last_entry:
        raise ValueError("labels repeat or are out of range")
    if found.levels.min() < 0 or found.levels.max() != found.top_level or found.top_level > _MAX_LEVEL:
        raise ValueError("levels are out of range")
    if not 0 <= found.entry_node < count or found.levels[found.entry_node] != found.top_level:
        raise ValueError("entry node is out of range")
    _check_lists(found.links0, 2 * found.links, np.zeros(count, np.int32), found)
    rows = found.upper.view(np.uint32) if len(found.upper) % 4 == 0 else np.empty(0, np.uint32)
    if rows.size != int(found.levels.sum()) * (1 + found.links):
        raise ValueError("upper levels are cut off")
    # Node by node, a list for each of its levels from 1 up.
    level_of_row = np.concatenate(
        [np.arange(1, n + 1) for n in found.levels[found.levels > 0]] or [np.empty(0, np.int32)]
    )
    _check_lists(rows.reshape(-1, 1 + found.links), found.links, level_of_row, found)


def _check_lists(rows: NDArray[np.uint32], most: int, level: NDArray[np.signedinteger[Any]], found: Links) -> None:
    """Check lists `[number, links...]`: the number at most `most`, each link a node that reaches the list's level."""
    for at in range(0, len(rows), _CHECKED_AT_ONCE):
        part, reached = rows[at : at + _CHECKED_AT_ONCE], level[at : at + _CHECKED_AT_ONCE, None]
        if part[:, 0].max() > most:
            raise ValueError("a node has too many links")
        used = np.arange(most) < part[:, :1]
        linked = np.where(used, part[:, 1:], found.entry_node)
        if linked.max() >= len(found.labels) or (used & (found.levels[linked] < reached)).any():
            raise ValueError("a link leaves the graph")


def _check_basis(basis: NDArray[np.float32] | None) -> None:
    """Check that a basis turns unit vectors into nothing that is longer or not finite."""
    if basis is None:
        return
    with np.errstate(all="ignore"):
        products = basis.T @ basis
        orthonormal = np.abs(products - np.eye(len(products), dtype=np.float32)).max() <= _NOT_ORTHOGONAL
    if not orthonormal:  # so it is with NaN
        raise ValueError("its basis is not orthonormal")


def blank_nodes(found: Links, dimension: int) -> NDArray[np.void]:
    """(n,) nodes as hnswlib lays them out, with the links of a file; their vectors ("unit") are to be filled in."""
    width = dimension if found.basis is None else found.basis.shape[1]
    count, links = found.links0.shape
    nodes = np.zeros(count, [("links", np.uint32, links), ("unit", np.float32, width), ("label", np.uint64)])
    nodes["links"], nodes["label"] = found.links0, found.labels
    return nodes


def assemble(found: Links, nodes: NDArray[np.void], missing: NDArray[np.bool_], change: int) -> Graph:
    """Make a graph of its links and its nodes.

    Nodes in `missing` have no vector any more (they were removed). They stay as way marks, at the mean of the nodes
    they link to, and are never an answer.
    """
    for node in np.flatnonzero(missing):
        linked = found.links0[node, 1 : 1 + found.links0[node, 0]]
        linked = linked[~missing[linked]]
        if len(linked):
            mean = nodes["unit"][linked].mean(axis=0)
            nodes["unit"][node] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    index = hnswlib.Index(params=_state(found, nodes))
    graph = Graph(index, found.last_entry, change, found.basis)
    graph.forget(found.labels[missing])
    return graph


def _state(found: Links, nodes: NDArray[np.void]) -> dict[str, Any]:
    count, size, dimension = len(nodes), nodes.itemsize, nodes["unit"].shape[1]
    return {
        "ser_version": 1,
        "space": "ip",
        "dim": dimension,
        "index_inited": True,
        "ep_added": True,
        "normalize": False,
        "num_threads": hnswlib.Index("ip", dimension).num_threads,
        "seed": SEED,
        "offset_level0": 0,
        "max_elements": count,
        "cur_element_count": count,
        "size_data_per_element": size,
        "label_offset": size - 8,
        "offset_data": found.links0.shape[1] * 4,
        "max_level": found.top_level,
        "enterpoint_node": found.entry_node,
        "max_M": found.links,
        "max_M0": 2 * found.links,
        "M": found.links,
        "mult": 1 / np.log(found.links),
        "ef_construction": found.build_effort,
        "ef": LEAST_EF,
        "has_deletions": False,
        "size_links_per_element": 4 * (1 + found.links),
        "allow_replace_deleted": False,
        "label_lookup_external": found.labels.astype(np.uint64),
        "label_lookup_internal": np.arange(count, dtype=np.uint32),
        "element_levels": found.levels,
        "data_level0": nodes.view(np.int8),
        "link_lists": found.upper,
    }
