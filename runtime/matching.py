"""From a query's token memory to its K nearest gallery neighbours: cosine first, then EMD on the best candidates."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle, MatchSettings
from runtime.encoder import Features
from runtime.engines import open_graph
from runtime.gallery.protocol import GalleryReader, Tokens


@dataclass(frozen=True)
class Neighbours:
    """The K nearest gallery entries of B queries, nearest first.

    Attributes:
        entries: (B, K) int64 entry ids.
        distance: (B, K) float32, `(1 - alpha) * (1 - cosine) + alpha * EMD`, or `1 - cosine` without EMD.
        tokens: token memory of each query's neighbours, in their order.
    """

    entries: NDArray[np.int64]
    distance: NDArray[np.float32]
    tokens: tuple[Tokens, ...]


class Matcher:
    """Refines candidates by EMD in the bundle's matcher graph.

    Args:
        bundle: where the graph comes from.
        settings: candidates, K and alpha; alpha 0 leaves EMD out.
        engine: name of the engine.
        threads: threads of one run.
    """

    def __init__(
        self, bundle: Bundle, settings: MatchSettings, engine: str = "auto", threads: int | None = None
    ) -> None:
        self.settings = settings
        self._engine = open_graph(bundle, "matcher", engine, threads) if settings.alpha > 0 else None

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
        nearest, distances, tokens = [], [], []
        for row in range(len(entries)):
            distance = 1 - cosine[row]
            if self._engine is None:
                order = np.arange(count)
                found = gallery.tokens(entries[row, :count])
            else:
                candidates = gallery.tokens(entries[row])
                distance = self._mix(distance, query, row, candidates)
                order = np.argsort(distance, kind="stable")[:count]
                patches = None if candidates.patches is None else candidates.patches[order]
                found = Tokens(candidates.cls[order], patches)
            nearest.append(entries[row, order])
            distances.append(distance[order])
            tokens.append(found)
        return Neighbours(np.stack(nearest), np.stack(distances).astype(np.float32), tuple(tokens))

    def _mix(
        self, cosine_distance: NDArray[np.float32], query: Features, row: int, candidates: Tokens
    ) -> NDArray[np.float32]:
        """Return (C,) mixed distances of one query; a gallery without patches has no EMD to mix in."""
        if candidates.patches is None or self._engine is None:
            return cosine_distance
        answer = self._engine.run(
            {
                "query_cls": query.cls[row : row + 1],
                "query_patches": query.patches[row : row + 1],
                "candidate_cls": candidates.cls[None],
                "candidate_patches": candidates.patches[None].astype(np.float32),
            }
        )
        emd = answer["emd"][0].astype(np.float32)
        alpha = np.float32(self.settings.alpha)
        return np.asarray((1 - alpha) * cosine_distance + alpha * emd, np.float32)


class Consolidator:
    """Rebuilds queries from their neighbours in the bundle's decoder graph.

    Args:
        bundle: where the graph comes from; it must have a decoder.
        engine: name of the engine.
        threads: threads of one run.
    """

    def __init__(self, bundle: Bundle, engine: str = "auto", threads: int | None = None) -> None:
        self._engine = open_graph(bundle, "decoder", engine, threads)
        self._with_query = bundle.manifest.decoder_tokens == "query+gallery"

    def consolidate(self, query: Features, neighbours: Neighbours) -> NDArray[np.float32]:
        """Return (B, D) float32 consolidated descriptors.

        Where the gallery stores no patches, a neighbour's [cls] stands for its tokens (paper, table 8).
        """
        cls = np.stack([tokens.cls for tokens in neighbours.tokens])  # (B, K, D)
        patches = [
            tokens.cls[:, None] if tokens.patches is None else tokens.patches.astype(np.float32)
            for tokens in neighbours.tokens
        ]
        inputs: dict[str, NDArray[np.generic]] = {
            "neighbour_cls": cls,
            "neighbour_patches": np.stack(patches),  # (B, K, N, D)
            "neighbour_mask": np.ones(cls.shape[:2], np.float32),
        }
        if self._with_query:
            inputs |= {"query_cls": query.cls, "query_patches": query.patches}
        return np.asarray(self._engine.run(inputs)["descriptor"], np.float32)
