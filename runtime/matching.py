"""From a query's token memory to its K nearest gallery neighbours: cosine first, then EMD on the best candidates."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle, MatchSettings
from runtime.emd import CompactEmd, Emd, FloatEmd
from runtime.encoder import Features
from runtime.engines import Engine, open_engine, open_graph
from runtime.engines.profiles import DECODER_BATCH
from runtime.gallery.codecs import TokenCodec
from runtime.gallery.protocol import Candidates, GalleryReader, StoredTokens

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Neighbours:
    """The K nearest gallery entries of B queries, nearest first.

    Attributes:
        entries: (B, K) int64 entry ids.
        distance: (B, K) float32, `(1 - alpha) * (1 - cosine) + alpha * EMD`, or `1 - cosine` without EMD.
        tokens: stored token memory of all B * K, those of the first query first.
    """

    entries: NDArray[np.int64]
    distance: NDArray[np.float32]
    tokens: StoredTokens


class Matcher:
    """Refines candidates by EMD in the bundle's matcher graph, or in its compact one where the gallery is compact.

    Args:
        bundle: where the graphs come from.
        settings: candidates, K and alpha; alpha 0 leaves EMD out.
        engine: name of the engine.
        threads: processors to use; None is all.
        gallery: opens the graph that this gallery needs at once; without it the first query does.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: MatchSettings,
        engine: str = "auto",
        threads: int | None = None,
        gallery: GalleryReader | None = None,
    ) -> None:
        self.settings = settings
        self._bundle, self._engine, self._threads = bundle, engine, threads
        self._opened: dict[bool, Emd] = {}  # by whether it is the compact one
        if settings.alpha and gallery is not None:
            self._emd(_codec(gallery))

    def refine(
        self,
        query: Features,
        entries: NDArray[np.int64],
        cosine: NDArray[np.float32],
        gallery: GalleryReader,
    ) -> Neighbours:
        """Pick the K nearest of each query's candidates.

        Args:
            query: B encoded queries.
            entries: (B, C) int64 candidates by cosine, best first.
            cosine: (B, C) float32.
            gallery: where the candidates' tokens lie.

        Returns:
            K neighbours a query, or C where fewer candidates were given.
        """
        count = min(self.settings.neighbours, entries.shape[1])
        if not self.settings.alpha:
            nearest = entries[:, :count]
            return Neighbours(nearest, (1 - cosine[:, :count]).astype(np.float32), gallery.stored(nearest.ravel()))
        candidates = gallery.stored(entries.ravel())
        distance = (1 - cosine).astype(np.float32)
        if candidates.records is not None:  # a gallery without patches has no EMD to mix in
            alpha = np.float32(self.settings.alpha)
            distance = (1 - alpha) * distance + alpha * self._emd(candidates.codec).distances(query, candidates)
        order = np.argsort(distance, axis=1, kind="stable")[:, :count]
        chosen = order + np.arange(len(order))[:, None] * entries.shape[1]
        return Neighbours(
            np.take_along_axis(entries, order, axis=1),
            np.take_along_axis(distance, order, axis=1),
            candidates.take(chosen.ravel()),
        )

    def candidates(self, query: Features, gallery: GalleryReader) -> Candidates:
        """Find the entries nearest to each of B queries by cosine, as many as EMD then refines."""
        return find_candidates(query, self.settings, gallery, max(self.settings.refine, self.settings.neighbours))

    def _emd(self, codec: TokenCodec) -> Emd:
        """What measures the EMD over tokens of this codec, opened when it is first asked for."""
        compact = _runs_compact(self._bundle, self._engine, codec)
        if compact not in self._opened:
            self._opened[compact] = (
                CompactEmd(self._bundle, self._threads)
                if compact
                else FloatEmd(self._bundle, self._engine, self._threads)
            )
        return self._opened[compact]


def find_candidates(query: Features, settings: MatchSettings, gallery: GalleryReader, count: int) -> Candidates:
    """Find the `count` entries nearest to each of B queries by the cosine that the settings name."""
    if settings.search_by == "descriptor":
        return gallery.rank(query.descriptor, count)
    return gallery.search(query.cls, count)


def neighbours_of(ranked: Candidates, gallery: GalleryReader) -> Neighbours:
    """Take entries found by their descriptors for neighbours, at the distance 1 - cosine."""
    return Neighbours(ranked.entries, 1 - ranked.cosine, gallery.stored(ranked.entries.ravel()))


def own_similarity(cosine: NDArray[np.float32], names: NDArray[np.str_]) -> NDArray[np.float32]:
    """Return (B,) largest cosines of crops with entries of the person they are taken for.

    Args:
        cosine: (B, 1 + K) of the crops' own descriptors with those of the best entry and of K neighbours.
        names: (B, 1 + K) identities of these entries; the first is who the crop is taken for.
    """
    return np.asarray(np.where(names == names[:, :1], cosine, np.float32(-1)).max(axis=1), np.float32)


class Consolidator:
    """Rebuilds queries from their neighbours in the bundle's decoder graph, or in its compact one.

    Args:
        bundle: where the graphs come from; it must have a decoder.
        engine: name of the engine.
        threads: threads of one run; None leaves it to the engine.
        gallery: as for `Matcher`.
        temperature: by which nearer neighbours count for more, see `MatchSettings`; None counts all alike.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "auto",
        threads: int | None = None,
        gallery: GalleryReader | None = None,
        temperature: float | None = None,
    ) -> None:
        self._temperature = temperature
        self._bundle, self._engine, self._threads = bundle, engine, threads
        self._opened: dict[bool, Engine] = {}  # by whether it is the compact one
        self._with_query = bundle.manifest.decoder_tokens == "query+gallery"
        if gallery is not None:
            self._decoder(_runs_compact(bundle, engine, _codec(gallery)))

    def consolidate(self, query: Features, neighbours: Neighbours) -> NDArray[np.float32]:
        """Return (B, D) float32 consolidated descriptors.

        Where the gallery stores no patches, a neighbour's [cls] stands for its tokens (paper, table 8).
        """
        parts = [
            self._rebuild(query, neighbours, start, min(start + DECODER_BATCH, len(neighbours.entries)))
            for start in range(0, len(neighbours.entries), DECODER_BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty_like(query.cls)

    def consolidate_again(
        self,
        query: Features,
        neighbours: Neighbours,
        passes: int,
        find: Callable[[NDArray[np.float32]], Neighbours],
    ) -> NDArray[np.float32]:
        """Return (B, D) descriptors rebuilt `passes` times.

        Args:
            query: B encoded queries.
            neighbours: of the first pass.
            passes: 1 or more.
            find: makes the (B, D) rebuilt descriptors of a pass the neighbours of the next.
        """
        rebuilt = self.consolidate(query, neighbours)
        for _ in range(passes - 1):
            rebuilt = self.consolidate(query, find(rebuilt))
        return rebuilt

    def _rebuild(self, query: Features, neighbours: Neighbours, start: int, end: int) -> NDArray[np.float32]:
        """Rebuild the queries from `start` up to `end`."""
        tokens, count = neighbours.tokens, neighbours.entries.shape[1]
        which = range(start * count, end * count)
        inputs: dict[str, NDArray[np.generic]] = {
            "neighbour_cls": tokens.cls[which.start : which.stop].reshape(end - start, count, -1),
            "neighbour_mask": self._weights(neighbours.distance[start:end]),
        }
        compact = tokens.records is not None and _runs_compact(self._bundle, self._engine, tokens.codec)
        if compact and tokens.records is not None and tokens.codec.basis is not None:
            records = [tokens.records[index] for index in which]
            codes = np.stack([record["codes"] for record in records])  # (B * K, N, R)
            norms = np.stack([record["norms"] for record in records])
            steps = np.stack([record["scales"] for record in records]) * norms
            inputs["neighbour_codes"] = codes.reshape(end - start, count, *codes.shape[1:])
            inputs["neighbour_steps"] = steps.reshape(end - start, count, 1, -1)
            inputs["neighbour_norms"] = norms.reshape(end - start, count, 1, -1)
            inputs["basis"] = tokens.codec.basis
        else:
            patches = tokens.patches(which)
            inputs["neighbour_patches"] = patches.reshape(end - start, count, *patches.shape[1:])  # (B, K, N, D)
        if self._with_query:
            inputs |= {"query_cls": query.cls[start:end], "query_patches": query.patches[start:end]}
        return np.asarray(self._decoder(compact).run(inputs)["descriptor"], np.float32)

    def _weights(self, distance: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (B, K) weights of neighbours at these distances, 1 for the nearest."""
        if self._temperature is None:
            return np.ones_like(distance)
        nearer = (distance.min(axis=1, keepdims=True) - distance) / np.float32(self._temperature)
        return np.asarray(np.exp(nearer), np.float32)

    def _decoder(self, compact: bool) -> Engine:
        if compact not in self._opened:
            self._opened[compact] = (
                open_engine(self._bundle.graph_path("compact_decoder"), "onnxruntime", self._threads)
                if compact
                else open_graph(self._bundle, "decoder", self._engine, self._threads)
            )
        return self._opened[compact]


def _codec(gallery: GalleryReader) -> TokenCodec:
    return gallery.stored(np.empty(0, np.int64)).codec


def takes_compact(engine: str, codec: TokenCodec) -> bool:
    """Whether an engine of this name matches and decodes tokens of this codec as bytes, which is for the CPU."""
    return codec.basis is not None and not engine.startswith(("tensorrt", "onnxruntime-"))


def _runs_compact(bundle: Bundle, engine: str, codec: TokenCodec) -> bool:
    """Whether tokens are matched and decoded as bytes; says where only the bundle stands in the way."""
    if not takes_compact(engine, codec):
        return False
    if bundle.has_compact:
        return True
    _advise_export(bundle)
    return False


@functools.lru_cache(maxsize=8)
def _advise_export(bundle: Bundle) -> None:
    """Say it once of a bundle that is open: every batch asks."""
    log.warning(
        "bundle %s has no compact graphs, or old ones: export it again to match this gallery faster", bundle.folder
    )
