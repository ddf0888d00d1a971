"""A snapshot of a gallery: what one query sees from its start to its end."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.gallery.codecs import LARGEST_HALF
from runtime.gallery.graph import Graph
from runtime.gallery.protocol import Candidates, Entry, StoredTokens, Tokens
from runtime.gallery.records import Layout, Space
from runtime.gallery.rows import Rows
from runtime.gallery.segments import Segment

# A cosine from a product in float32 is this far off at most (seen: 3e-7 at 768 dimensions). Entries so near to the last
# that was asked for are scored in float64 too: neither rounding nor blocking may decide which are the nearest.
ROUNDING = 2e-6
# The same for HNSW, which is asked for this many more.
SPARE = 8
# Asking for more than this share of a gallery is quicker by exact search than by HNSW.
EXACT_SHARE = 0.05
_RESCORED_AT_ONCE = 4096


class Snapshot:
    """Live entries of a gallery at one moment, searchable; never changes.

    Args:
        rows: the entries.
        segments: mapped segments, at least those that `rows` name.
        graphs: HNSW by space; entries after a graph's last are searched exactly.
        layout: shape of the records.
        damaged: called with ids of entries whose records fail their checksum; they are left out of the answer.
    """

    def __init__(
        self,
        rows: Rows,
        segments: Mapping[int, Segment],
        graphs: Mapping[Space, Graph],
        layout: Layout,
        damaged: Callable[[list[int], str], None],
    ) -> None:
        self.rows = rows
        self.segments = segments
        self.graphs = graphs
        self.layout = layout
        self._damaged = damaged

    def __len__(self) -> int:
        return len(self.rows)

    def nearest(self, space: Space, vectors: NDArray[np.float32], count: int, *, exact: bool = False) -> Candidates:
        """Find the `count` entries nearest to each of (B, D) vectors by cosine, ties by id.

        Raises:
            GalleryError: the gallery is empty, or `vectors` are of another shape, not finite, or zero.
        """
        queries = self._unit(vectors)  # (B, D) float64
        count = min(count, len(self.rows))
        if count < 1:
            raise GalleryError(f"asked for {count} candidates: ask for at least 1")
        graph = None if exact or count > EXACT_SHARE * len(self.rows) else self.graphs.get(space)
        found = None if graph is None else self._by_graph(graph, space, queries, count)
        return found or self._exactly(space, queries, count)

    def compare(self, space: Space, vectors: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (B, C) float32 cosines of (B, D) vectors with (B, C) entries; -1 where a record is damaged.

        Raises:
            GalleryError: an id is not a live entry, or `vectors` are of another shape, not finite, or zero.
        """
        positions = self.rows.positions(ids.ravel()).reshape(ids.shape)
        pairs = zip(self._unit(vectors), positions, strict=True)
        rows = [self._cosines(space, query, row) for query, row in pairs]
        return np.maximum(np.stack(rows), np.float32(-1)) if rows else np.empty(ids.shape, np.float32)

    def tokens(self, ids: NDArray[np.int64]) -> Tokens:
        """Read the token memory of (n,) entries, in that order; see `GalleryReader.tokens`.

        Raises:
            GalleryError: an id is not a live entry, or its record is damaged.
        """
        stored = self.stored(ids)
        if stored.records is None:
            return Tokens(stored.cls, None)
        patches = np.empty((len(stored.cls), self.layout.patches, self.layout.dimension), np.float16)
        for i in stored.order:
            # a sum in float32 may come out a little above what was added
            patches[i] = np.clip(stored.patches([int(i)])[0], -LARGEST_HALF, LARGEST_HALF)
        return Tokens(stored.cls, patches)

    def stored(self, ids: NDArray[np.int64]) -> StoredTokens:
        """Find the token memory of (n,) entries where it lies; see `GalleryReader.stored`.

        Raises:
            GalleryError: an id is not a live entry, or its record is damaged.
        """
        positions = self.rows.positions(np.asarray(ids, np.int64))
        n, layout = len(positions), self.layout
        cls = np.empty((n, layout.dimension), np.float32)
        records: list[NDArray[np.void]] = [np.empty((), np.void)] * n
        bad: list[int] = []
        for segment, group in self._by_segment(positions):
            at = positions[group]
            slots, entries = self.rows.slot[at], self.rows.ids[at]
            cls[group] = segment.vectors("cls")[slots]
            good = segment.scales("cls", slots, entries, self.rows.vector_crc[at]) > 0
            if layout.patches:
                good &= segment.check_tokens(slots, entries, self.rows.token_crc[at])
                for i, slot in zip(group.tolist(), slots.tolist(), strict=True):
                    records[i] = segment.tokens(slot)
            bad += entries[~good].tolist()
        if bad:
            self._damaged(bad, "its record does not match its checksum")
            raise GalleryError(
                f"entry {bad[0]} is damaged on disk: its record does not match its checksum; it is left out from now "
                "on: run `fpc-deploy index verify --repair`"
            )
        order = np.lexsort((self.rows.slot[positions], self.rows.segment[positions]))
        return StoredTokens(cls, tuple(records) if layout.patches else None, order, layout.codec)

    def entries(self, ids: Sequence[int]) -> list[Entry]:
        """Look up entries by id, in that order.

        Raises:
            GalleryError: an id is not a live entry.
        """
        return [self.rows.entry(int(position)) for position in self.rows.positions(np.asarray(ids, np.int64))]

    def raw(self, space: Space, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (n, D) float32 vectors of the rows at `positions`, as they were added.

        Raises:
            GalleryError: a record is damaged.
        """
        vectors, scales = self._read(space, positions)
        if not scales.all():
            bad = self.rows.ids[positions[scales == 0]].tolist()
            self._damaged(bad, "its vectors do not match their checksum")
            raise GalleryError(f"entry {bad[0]} is damaged on disk: run `fpc-deploy index verify --repair`")
        return vectors

    def units(self, space: Space, positions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return (n, D) float32 unit vectors of the rows at `positions`, and (n,) whether each record is good."""
        vectors, scales = self._read(space, positions)
        vectors *= scales[:, None]
        return vectors, scales > 0

    def _read(self, space: Space, positions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Copy (n, D) raw vectors and their (n,) reciprocal norms; both are 0 where a record is damaged."""
        vectors = np.empty((len(positions), self.layout.dimension), np.float32)
        scales = np.empty(len(positions), np.float32)
        for segment, group in self._by_segment(positions):
            at = positions[group]
            slots = self.rows.slot[at]
            scales[group] = segment.scales(space, slots, self.rows.ids[at], self.rows.vector_crc[at])
            vectors[group] = segment.vectors(space)[slots]
        vectors[scales == 0] = 0
        return vectors, scales

    def _unit(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        if vectors.ndim != 2 or vectors.shape[1] != self.layout.dimension:
            raise GalleryError(f"queries are {vectors.shape}, the gallery takes (B, {self.layout.dimension})")
        wide = vectors.astype(np.float64)
        norms = np.linalg.norm(wide, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not (norms > 0).all():
            raise GalleryError("a query is zero or not finite: it has no cosine")
        unit: NDArray[np.float64] = wide / norms
        return unit

    def _by_segment(self, positions: NDArray[np.int64]) -> Iterable[tuple[Segment, NDArray[np.int64]]]:
        """Group indices into `positions` by segment."""
        numbers = self.rows.segment[positions]
        for number in np.unique(numbers):
            yield self.segments[int(number)], np.flatnonzero(numbers == number)

    def _by_graph(self, graph: Graph, space: Space, queries: NDArray[np.float64], count: int) -> Candidates | None:
        """Candidates from HNSW and, for entries it does not know yet, by exact search; None where they are too few."""
        labels = graph.nearest(queries.astype(np.float32), count + SPARE)
        if labels is None:
            return None
        later = np.arange(np.searchsorted(self.rows.ids, graph.last_entry, "right"), len(self.rows))
        scores = self._scan(space, queries, later)
        chosen = []
        for query, found in enumerate(labels):
            positions, known = self.rows.find(found)
            extra = later[_top(scores[query], count)]
            chosen.append(np.concatenate([positions[known], extra]))
        return self._rescored(space, queries, chosen, count)

    def _exactly(self, space: Space, queries: NDArray[np.float64], count: int) -> Candidates:
        everything = np.arange(len(self.rows))
        scores = self._scan(space, queries, everything)
        chosen = [_top(row, count) for row in scores]
        # Damaged entries score -inf and are dropped again by the rescoring, so there may be fewer than asked for.
        fewest = int(np.isfinite(scores).sum(axis=1).min())
        if fewest == 0:
            raise GalleryError("every entry of the gallery is damaged: run `fpc-deploy index verify --repair`")
        found = self._rescored(space, queries, chosen, min(count, fewest))
        if found is None:
            raise GalleryError("the gallery changed on disk during a search: run `fpc-deploy index verify`")
        return found

    def _scan(self, space: Space, queries: NDArray[np.float64], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (B, n) cosines with the rows at `positions`, straight from the mapped files; -inf where damaged."""
        narrow = queries.astype(np.float32)
        scores = np.empty((len(queries), len(positions)), np.float32)
        bad: list[int] = []
        for segment, group in self._groups(positions):
            at = positions[group]
            slots = self.rows.slot[at]
            scales = segment.scales(space, slots, self.rows.ids[at], self.rows.vector_crc[at])
            low, high = int(slots.min()), int(slots.max()) + 1
            with np.errstate(all="ignore"):  # slots between may hold anything
                block = (narrow @ segment.vectors(space)[low:high].T)[:, slots - low] * scales
            block[:, scales == 0] = -np.inf
            scores[:, group] = block
            bad += self.rows.ids[at][scales == 0].tolist()
        if bad:
            self._damaged(bad, "its vectors do not match their checksum")
        return scores

    def _groups(self, positions: NDArray[np.int64]) -> Iterable[tuple[Segment, NDArray[np.int64]]]:
        """Group by segment; the grouping of all rows, asked for by each exact search, is kept."""
        return self._all_groups if len(positions) == len(self.rows) else self._by_segment(positions)

    @functools.cached_property
    def _all_groups(self) -> list[tuple[Segment, NDArray[np.int64]]]:
        return list(self._by_segment(np.arange(len(self.rows))))

    def _rescored(
        self, space: Space, queries: NDArray[np.float64], chosen: list[NDArray[np.int64]], count: int
    ) -> Candidates | None:
        """Score the chosen rows of each query in float64 and keep the best `count`; None where a query has fewer."""
        ids = np.empty((len(queries), count), np.int64)
        cosine = np.empty((len(queries), count), np.float32)
        for query, positions in enumerate(chosen):
            scores = np.concatenate(
                [
                    self._cosines(space, queries[query], positions[at : at + _RESCORED_AT_ONCE])
                    for at in range(0, len(positions), _RESCORED_AT_ONCE)
                ]
                or [np.empty(0, np.float32)]
            )
            order = np.lexsort((positions, -scores))[:count]
            if len(order) < count or not np.isfinite(scores[order[-1]]):
                return None
            ids[query], cosine[query] = self.rows.ids[positions[order]], scores[order]
        return Candidates(ids, cosine)

    def _cosines(self, space: Space, query: NDArray[np.float64], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n,) float32 cosines summed in float64; -inf where a record is damaged."""
        vectors, scales = self._read(space, positions)
        good = scales > 0
        if not good.all():
            self._damaged(self.rows.ids[positions[~good]].tolist(), "its vectors do not match their checksum")
        wide = vectors.astype(np.float64)
        scores = (wide @ query) / np.sqrt(np.einsum("nd,nd->n", wide, wide) + (~good))
        found: NDArray[np.float32] = np.clip(scores, -1, 1).astype(np.float32)
        found[~good] = -np.inf
        return found


def _top(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest scores, and of those that rounding cannot tell from the last; in no order."""
    if count >= len(scores):
        return np.arange(len(scores))
    last = np.partition(scores, len(scores) - count)[len(scores) - count]
    return np.flatnonzero(scores >= last - ROUNDING)
