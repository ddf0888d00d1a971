"""HNSW over one of the two vectors of each entry; its file is the business of `runtime.gallery.graph_file`.

hnswlib keeps a copy of every vector in memory, as float32. Long vectors are therefore reduced to fewer coordinates in a
basis learnt from the gallery: HNSW proposes by them, and the caller scores what it proposes by the whole vectors, which
stay in the mapped segments. Measured (`python -m benchmarks.reduced_hnsw`): less than a third of the memory, a third of
the time to build and to search, and the same recall once twice as many are proposed.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from runtime.gallery.records import Settings

SEED = 100
LEAST_EF = 64
# hnswlib looks at this many times as many as are asked for (ef), or at LEAST_EF. Of the 100 nearest of 50,000 it then
# finds 0.996, with twice as many 0.985.
EFFORT = 4
# HNSW over reduced vectors proposes this many times as many as are asked for.
WIDER = 2
# A basis that carries less of the vectors than this share of their squares proposes too many that are not near:
# it is not used. At 0.79 the nearest 200 of 1,000,000 by it hold 0.972 of the nearest 100, at 0.86 they hold 0.991
# (`benchmarks.identities`, 128 and 192 coordinates of 768); 192 coordinates of random vectors carry 0.25.
LEAST_CARRIED = 0.75
# The basis is learnt from as many entries, spread evenly over the gallery.
LEARNT_FROM = 20_000


@dataclass
class Graph:
    """HNSW over the unit vectors of some entries.

    Attributes:
        index: the hnswlib index; its labels are entry ids.
        last_entry: highest id the graph was made with: entries up to it are in the graph, later ones are not.
        change: the change of the gallery it was made at.
        basis: (D, R) float32 that the vectors are reduced by, or None where they are whole.
    """

    index: Any
    last_entry: int
    change: int
    basis: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return int(self.index.get_current_count())

    def nearest(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64] | None:
        """Propose ids near to unit `queries` (B, D), or None where the graph cannot find as many.

        Returns:
            (B, at least `count`) int64, the nearest by their whole vectors hopefully among them, in no order.
        """
        if count > len(self):
            return None
        wanted = count if self.basis is None else min(WIDER * count, len(self))
        # ef belongs to the index, not to the query: it only ever rises, so that threads do not lower each other's.
        effort = max(EFFORT * count, LEAST_EF)
        if self.index.ef < effort:
            self.index.set_ef(effort)
        try:
            # One by one: a product of a few rows is slow on several threads where the processors are busy.
            asked = np.stack([reduced(query, self.basis) for query in queries])
            labels, _ = self.index.knn_query(asked, wanted)
        except RuntimeError:  # fewer reached: many removed entries, or a broken graph
            return None
        found: NDArray[np.int64] = labels.astype(np.int64)
        return found

    def forget(self, ids: NDArray[np.int64]) -> None:
        """Make ids no longer an answer."""
        for id_ in ids[ids <= self.last_entry].tolist():
            with contextlib.suppress(RuntimeError):  # not in the graph, or marked already
                self.index.mark_deleted(id_)


def empty(count: int, dimension: int, basis: NDArray[np.float32] | None, settings: Settings) -> Graph:
    """A graph with room for `count` entries of `dimension` numbers."""
    index = hnswlib.Index("ip", dimension if basis is None else basis.shape[1])
    index.init_index(max(count, 1), ef_construction=settings.build_effort, M=settings.links, random_seed=SEED)
    return Graph(index, 0, 0, basis)


def extend(graph: Graph, ids: NDArray[np.int64], units: NDArray[np.float32]) -> None:
    """Take entries `ids` (n,), ascending, with unit vectors (n, D) float32 into a graph; its room doubles when full."""
    if not len(ids):
        return
    needed = len(graph) + len(ids)
    if needed > graph.index.get_max_elements():
        graph.index.resize_index(max(needed, 2 * graph.index.get_max_elements()))
    graph.index.add_items(reduced(units, graph.basis), ids)
    graph.last_entry = max(graph.last_entry, int(ids[-1]))


def learn_basis(units: NDArray[np.float32], coordinates: int) -> NDArray[np.float32] | None:
    """The directions that carry most of unit vectors (n, D): (D, R) float32, or None where vectors stay whole.

    They stay whole where they have no more than `coordinates` numbers, or where as many directions carry too little.
    The same vectors give the same basis.
    """
    if units.shape[1] <= coordinates:
        return None
    wide = units.astype(np.float64)
    _, directions = np.linalg.eigh(wide.T @ wide)  # ascending
    basis = np.ascontiguousarray(directions[:, : -coordinates - 1 : -1], np.float32)
    return basis if carried(units, basis) >= LEAST_CARRIED else None


def carried(units: NDArray[np.float32], basis: NDArray[np.float32]) -> float:
    """Share of the squares of unit vectors (n, D) that a basis keeps."""
    return float(np.square(units @ basis).sum() / max(len(units), 1))


def reduced(units: NDArray[np.float32], basis: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """(n, R) float32 coordinates of vectors (n, D); the vectors themselves where there is no basis."""
    return units if basis is None else units @ basis
