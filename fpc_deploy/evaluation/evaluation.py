"""Runs configurations on a test set; what two of them share (encoding, gallery, EMD) is done once."""

import tempfile
import types
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.protocol import Labels, Relations, relate, score_ranking
from fpc_deploy.evaluation.crops import Crops, Progress, warn_of_strange_cameras
from fpc_deploy.evaluation.datasets import TestSet
from fpc_deploy.evaluation.reranking import Reranking, rerank
from fpc_deploy.evaluation.rows import Configuration, Row, multiply_adds_g
from fpc_deploy.evaluation.sides import CropEncoder, KnownPeople, encode_queries, fill_gallery, read_queries
from fpc_deploy.evaluation.similarity import (
    Answer,
    Graphs,
    Ordered,
    compare_candidates,
    compare_descriptors,
    order_candidates,
    rebuild,
)
from fpc_deploy.evaluation.stages import check_stages
from fpc_deploy.evaluation.strangers import Separation, separate
from runtime.encoder import Encoder, Features
from runtime.errors import FpcError

Barred = Literal["nothing", "moment", "person"]
"""What may not be a candidate or neighbour of a query: nothing, its person by its camera, or its person altogether."""


@dataclass(frozen=True)
class Options:
    """How configurations are run.

    Attributes:
        batch: images of one run of an encoder.
        tokens: what the gallery keeps of an image: all tokens, or [cls] alone (paper, table 8).
        strict: bar what the ranking leaves out (the query's person by its camera) from being its neighbours too.
        reranking: k-reciprocal re-ranking at the end, or None.
    """

    batch: int = 16
    tokens: Literal["full", "cls"] = "full"
    strict: bool = False
    reranking: Reranking | None = None


@dataclass(frozen=True)
class Outcome:
    """A row, and the (Q, G) similarity it was computed from, with the labels of its sides."""

    row: Row
    similarity: NDArray[np.float32]
    query: Labels
    gallery: Labels


@dataclass(frozen=True)
class GallerySize:
    """Entries of a gallery, and its bytes on disk."""

    entries: int
    bytes: int


class Evaluation:
    """A test set ready for configurations; use it as a context manager.

    Args:
        test_set: queries and gallery.
        scratch: folder for galleries; the caller removes it.
        options: how configurations are run.
        progress: told of every step.
    """

    def __init__(self, test_set: TestSet, scratch: Path, options: Options, progress: Progress) -> None:
        self.test_set, self.options = test_set, options
        self._scratch, self._progress = scratch, progress
        self._crops: Crops | None = None
        self._known: list[KnownPeople] = []  # at most one: galleries of other models are closed
        self._relations: Relations | None = None
        self._bundle_folder: Path | None = None
        self._queries: dict[str, Features] = {}
        self._ordered: dict[tuple[str, int, float, str, Barred], Ordered] = {}

    def __enter__(self) -> "Evaluation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._close_gallery()

    def run(self, graphs: Graphs, configuration: Configuration, encoder: CropEncoder | None = None) -> Outcome:
        """Run one configuration.

        Args:
            graphs: of the bundle it runs on.
            configuration: what to run.
            encoder: of queries, in place of the bundle's own; then `configuration.drop` says which it is.

        Raises:
            FpcError: stages the bundle has no graphs for, no readable image, no query with a match, or re-ranking of a
                configuration that has no descriptors.
        """
        answer = self._answer(graphs, configuration, "moment" if self.options.strict else "nothing", encoder)
        people = self._people(graphs)
        similarity = self._rerank(answer, people)
        manifest, stages = graphs.bundle.manifest, configuration.stages
        row = Row(
            configuration=configuration,
            keep_rate=manifest.keep_schedule.keep_rate if stages.prune else 1.0,
            pruned_at=manifest.keep_schedule.blocks if stages.prune else (),
            reranking=self.options.reranking,
            scores=score_ranking(similarity, self._related(people)),
            multiply_adds_g=multiply_adds_g(manifest, pruned=stages.prune),
        )
        return Outcome(row, similarity, self._query_labels(), people.labels)

    def separate(self, graphs: Graphs, configuration: Configuration) -> list[Separation]:
        """Measure how well a configuration tells people of the gallery from strangers.

        Args:
            graphs: of the bundle it runs on.
            configuration: what to run.

        Raises:
            FpcError: stages the bundle has no graphs for, or no readable image.
        """
        known = self._answer(graphs, configuration, "moment")
        strange = self._answer(graphs, configuration, "person")
        people = self._people(graphs)
        _, query = self._encoded(graphs, configuration, None)
        own = compare_descriptors(query.descriptor, people).similarity
        return separate(known, strange, own, self._related(people), people.labels.identity)

    def gallery_size(self) -> GallerySize:
        """Return the size of the gallery of the last run."""
        info = self._known[0].gallery.info()
        return GallerySize(info.entries, info.bytes)

    def _answer(
        self, graphs: Graphs, configuration: Configuration, barred: Barred, encoder: CropEncoder | None = None
    ) -> Answer:
        stages = configuration.stages
        check_stages(stages, graphs.bundle)
        self._forget_other(graphs)
        people = self._people(graphs)
        key, query = self._encoded(graphs, configuration, encoder)
        if not stages.match and not stages.consolidate:
            return compare_descriptors(query.descriptor, people)
        ordered = self._order(graphs, configuration, people, key, query, barred)
        settings = configuration.settings(graphs.bundle.manifest.matching)
        if not stages.consolidate:
            return compare_candidates(query.descriptor, ordered, people, settings.neighbours)
        count = partial(self._progress, "consolidating")
        rebuilt, used = rebuild(graphs, settings, query, ordered, people, self._left_out(people, barred), count)
        return replace(compare_descriptors(rebuilt, people), neighbours=people.columns(used))

    def _order(
        self,
        graphs: Graphs,
        configuration: Configuration,
        people: KnownPeople,
        key: str,
        query: Features,
        barred: Barred,
    ) -> Ordered:
        settings = configuration.settings(graphs.bundle.manifest.matching)
        wanted = key, max(settings.refine, settings.neighbours), settings.alpha, settings.search_by, barred
        if wanted not in self._ordered:
            self._ordered[wanted] = order_candidates(
                graphs, settings, query, people, self._left_out(people, barred), partial(self._progress, "matching")
            )
        return self._ordered[wanted]

    def _left_out(self, people: KnownPeople, barred: Barred) -> NDArray[np.bool_] | None:
        if barred == "nothing":
            return None
        relations = self._related(people)
        return relations.left_out if barred == "moment" else relations.left_out | relations.matches

    def _encoded(
        self, graphs: Graphs, configuration: Configuration, encoder: CropEncoder | None
    ) -> tuple[str, Features]:
        """Encode the queries, or find them encoded; with the key they are kept under."""
        stages = configuration.stages
        reads_patches = stages.match or (
            stages.consolidate and graphs.bundle.manifest.decoder_tokens == "query+gallery"
        )
        with_patches = stages.prune or reads_patches  # pruned queries are shared by all rows with S
        key = f"{configuration.drop if stages.prune else 'dense'}{' with patches' if with_patches else ''}"
        if key not in self._queries:
            if encoder is None:
                encoder = Encoder(graphs.bundle, sparse=stages.prune, engine=graphs.engine, threads=graphs.threads)
            crops = self._read(graphs)
            self._queries[key] = encode_queries(
                encoder, graphs.bundle, crops, self.options.batch, self._progress, with_patches=with_patches
            )
        return key, self._queries[key]

    def _people(self, graphs: Graphs) -> KnownPeople:
        """The gallery, built where none fits: bundles of one model and precision share it, however they prune."""
        if self._known and self._known[0].gallery.binding.differences(graphs.bundle.binding):
            self._close_gallery()
        if not self._known:
            bundle = graphs.bundle
            images = self.test_set.gallery
            if self.test_set.has_cameras:
                both = (*self.test_set.query, *images)
                warn_of_strange_cameras(bundle.manifest.cameras, both, self.test_set.name)
            encoder = Encoder(bundle, sparse=False, engine=graphs.engine, threads=graphs.threads)
            folder = Path(tempfile.mkdtemp(prefix="gallery-", dir=self._scratch))
            full = self.options.tokens == "full"
            people = fill_gallery(
                images, encoder, bundle, folder, self.options.batch, self._progress, with_patches=full
            )
            self._known.append(replace(people, labels=self.test_set.score_gallery(people.labels)))
        return self._known[0]

    def _related(self, people: KnownPeople) -> Relations:
        if self._relations is None:
            self._relations = relate(self._query_labels(), people.labels)
        return self._relations

    def _read(self, graphs: Graphs) -> Crops:
        if self._crops is None:
            self._crops = read_queries(self.test_set.query, graphs.bundle, self.options.batch, self._progress)
        return self._crops

    def _query_labels(self) -> Labels:
        images = self._crops.images if self._crops else ()
        return self.test_set.score_query(Labels.of([(image.identity, image.camera) for image in images]))

    def _rerank(self, answer: Answer, people: KnownPeople) -> NDArray[np.float32]:
        if self.options.reranking is None:
            return answer.similarity
        if answer.descriptors is None:
            raise FpcError("re-ranking compares descriptors: it does not go with stage M alone; add C, or leave M out")
        return rerank(answer.descriptors, people.descriptors, self.options.reranking)

    def _forget_other(self, graphs: Graphs) -> None:
        if self._bundle_folder != graphs.bundle.folder:
            self._bundle_folder = graphs.bundle.folder
            self._queries.clear()
            self._ordered.clear()

    def _close_gallery(self) -> None:
        for people in self._known:
            people.gallery.close()
        self._known.clear()
