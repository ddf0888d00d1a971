"""Crops in, identities out: encode, match, consolidate, rank."""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle, MatchSettings
from runtime.encoder import Encoder, Features
from runtime.engines.selection import resolve_engine
from runtime.errors import BundleError, GalleryError
from runtime.gallery.protocol import Candidates, GalleryReader
from runtime.matching import Consolidator, Matcher, Neighbours, neighbours_of, own_similarity

log = logging.getLogger(__name__)

MAX_BATCH = 8
"""Most crops in one run of the encoder; more are split, so that a crowded frame has bounded memory. Of a ViT-B on two
processors 16 took as long each, and 190 MB more."""


@dataclass(frozen=True)
class Neighbour:
    """A gallery entry that a query was rebuilt from."""

    entry: int
    identity: str
    distance: float


@dataclass(frozen=True)
class Identification:
    """Who one crop shows.

    Attributes:
        identity: of the nearest gallery entry, or None if `status` is "unknown".
        status: "known", or "unknown" where a similarity is below the settings' least.
        similarity: cosine of the consolidated descriptor with the nearest entry's descriptor; without a decoder,
            1 - distance of the nearest neighbour. NaN where nothing could be compared.
        own_similarity: largest cosine of the crop's own descriptor, before consolidation, with the descriptor of an
            entry of that person, among the neighbours and the nearest entry. Low for a stranger, whom consolidation
            draws near to somebody. NaN likewise.
        neighbours: the K entries that rebuilt the query, nearest first.
        kept: (P,) int64 places of the surviving patches in the row-major patch grid.
    """

    identity: str | None
    status: Literal["known", "unknown"]
    similarity: float
    own_similarity: float
    neighbours: tuple[Neighbour, ...]
    kept: NDArray[np.int64]


@dataclass
class StageTimes:
    """Milliseconds spent in each stage of one call: encode, search, emd, decode, rank."""

    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        yield
        self.ms[name] = self.ms.get(name, 0.0) + 1000 * (time.perf_counter() - start)


class Pipeline:
    """A bundle and a gallery, ready for crops.

    Args:
        bundle: the exported model.
        gallery: an opened gallery that this bundle made; must not be empty.
        settings: of matching; None takes the bundle's.
        engine: name of the inference engine.
        threads: threads of one run; None leaves it to the engine.

    Raises:
        GalleryError: the gallery is empty.
        BundleError: settings that are constants of the bundle's graphs and differ from them.
        EngineError: a graph cannot be loaded.
    """

    def __init__(
        self,
        bundle: Bundle,
        gallery: GalleryReader,
        settings: MatchSettings | None = None,
        engine: str = "auto",
        threads: int | None = None,
    ) -> None:
        if not len(gallery):
            raise GalleryError("the gallery is empty: add people to it with `fpc-deploy index add`")
        self.bundle, self.gallery = bundle, gallery
        self.settings = settings or bundle.manifest.matching
        _check_graph_constants(bundle, self.settings)
        self._cameras = bundle.manifest.cameras
        self._unknown_cameras: set[str] = set()
        self._said_empty = False
        resolve_engine(bundle, "query_encoder", engine, threads)  # measures, where it has to, while nothing else runs
        # To read, hash and compile the graphs is most of a start: they are opened side by side.
        with ThreadPoolExecutor(3, "open") as pool:
            encoder = pool.submit(Encoder, bundle, sparse=True, engine=engine, threads=threads)
            vectors = pool.submit(_read_vectors, gallery, bundle.manifest.model.embed_dim)
            matcher = pool.submit(Matcher, bundle, self.settings, engine, threads, gallery)
            self._consolidator = self._open_consolidator(engine, threads)
        self._encoder, self._matcher = encoder.result(), matcher.result()
        vectors.result()
        if len(gallery) < self.settings.neighbours:
            log.warning(
                "the gallery has %d entries, %d neighbours were asked for", len(gallery), self.settings.neighbours
            )
        if self._consolidator is None:
            log.warning("bundle %s has no decoder: queries are matched, not consolidated", bundle.folder)

    def identify(
        self,
        crops: NDArray[np.uint8],
        camera: str | Sequence[str | None] | None = None,
        times: StageTimes | None = None,
    ) -> list[Identification]:
        """Identify the people in a batch of crops.

        Args:
            crops: (B, H, W, 3) uint8 RGB, of the bundle's size (see `runtime.images.cut` and `resize`).
            camera: name of the camera, one for all crops or one for each; None means unknown.
            times: if given, stage times are added to it.

        Raises:
            EngineError: crops of another dtype or size.
            GalleryError: the gallery has become empty or unreadable.
        """
        times = times or StageTimes()
        return [answer for query in self.encode(crops, camera, times) for answer in self.match(query, times)]

    def encode(
        self,
        crops: NDArray[np.uint8],
        camera: str | Sequence[str | None] | None = None,
        times: StageTimes | None = None,
    ) -> Iterator[Features]:
        """The first half of `identify`: encode crops, at most `MAX_BATCH` in one run. The halves may overlap.

        Yields:
            Features of at most `MAX_BATCH` crops, in their order.
        """
        times = times or StageTimes()
        cameras = self._camera_indices(camera, len(crops))
        for start in range(0, len(crops), MAX_BATCH):
            part = slice(start, start + MAX_BATCH)
            with times.stage("encode"):
                query = self._encoder.encode(crops[part], cameras[part])
            yield query

    def match(self, query: Features, times: StageTimes | None = None) -> list[Identification]:
        """The second half of `identify`: find the gallery neighbours of encoded queries, consolidate, rank.

        Nobody is known where the gallery has become empty, as when the time of all its entries is over, and no crop
        whose features are not finite or zero (half precision overflows): a camera need not stop for that.
        """
        times = times or StageTimes()
        sound = _sound(query)
        if not sound.all():
            log.warning("%d of %d crops have features that are no use: they are unknown", (~sound).sum(), len(sound))
        answers = iter(self._match_sound(_chosen(query, sound), times) if sound.any() else [])
        places = zip(sound.tolist(), _kept(query), strict=True)
        return [next(answers) if good else _nobody(place) for good, place in places]

    def _match_sound(self, query: Features, times: StageTimes) -> list[Identification]:
        try:
            return self._describe(query, *self._match(query, times), times)
        except GalleryError as error:
            if not len(self.gallery):
                return self._without_gallery(query, error)
            # an entry whose tokens fail their checksum is left out from now on: a camera need not stop for it
            log.warning("matching once more: %s", error)
            return self._describe(query, *self._match(query, times), times)

    def _without_gallery(self, query: Features, error: GalleryError) -> list[Identification]:
        if not self._said_empty:
            log.warning("nobody is known until somebody is added: %s", error)
        self._said_empty = True
        return [_nobody(place) for place in _kept(query)]

    def _match(self, query: Features, times: StageTimes) -> tuple[Neighbours, Candidates]:
        with times.stage("search"):
            candidates = self._matcher.candidates(query, self.gallery)
        with times.stage("emd"):
            neighbours = self._matcher.refine(query, candidates.entries, candidates.cosine, self.gallery)
        if self._consolidator is None:
            return neighbours, Candidates(neighbours.entries, 1 - neighbours.distance)
        for again in reversed(range(self.settings.passes)):
            with times.stage("decode"):
                descriptor = self._consolidator.consolidate(query, neighbours)
            with times.stage("rank"):
                ranked = self.gallery.rank(descriptor, self.settings.neighbours if again else 1)
                if again:
                    neighbours = neighbours_of(ranked, self.gallery)
        return neighbours, ranked

    def _describe(
        self, query: Features, neighbours: Neighbours, ranked: Candidates, times: StageTimes
    ) -> list[Identification]:
        best, similarity = ranked.entries[:, 0], ranked.cosine[:, 0]
        used = np.column_stack([best, neighbours.entries])  # (B, 1 + K)
        identity = {entry.id: entry.identity for entry in self.gallery.entries(np.unique(used).tolist())}
        names = np.array([[identity[entry] for entry in row] for row in used.tolist()])
        with times.stage("rank"):
            own = own_similarity(self.gallery.compare(query.descriptor, used), names)
        known = np.ones(len(best), bool)
        if self.settings.min_similarity is not None:
            known &= similarity >= self.settings.min_similarity
        if self.settings.min_own_similarity is not None:
            known &= own >= self.settings.min_own_similarity
        near = [
            tuple(Neighbour(entry, identity[entry], distance) for entry, distance in zip(*row, strict=True))
            for row in zip(neighbours.entries.tolist(), neighbours.distance.tolist(), strict=True)
        ]
        named = [name if sure else None for name, sure in zip(names[:, 0].tolist(), known.tolist(), strict=True)]
        answers = zip(named, similarity.tolist(), own.tolist(), near, _kept(query), strict=True)
        return [Identification(name, "unknown" if name is None else "known", *rest) for name, *rest in answers]

    def _open_consolidator(self, engine: str, threads: int | None) -> Consolidator | None:
        if not self.bundle.has("decoder"):
            return None
        return Consolidator(self.bundle, engine, threads, self.gallery, self.settings.neighbour_temperature)

    def _camera_indices(self, camera: str | Sequence[str | None] | None, count: int) -> NDArray[np.int64]:
        names = [camera] * count if camera is None or isinstance(camera, str) else list(camera)
        strange = {name for name in names if name and name not in self._cameras.names} - self._unknown_cameras
        for name in sorted(strange):
            log.info(
                "camera %r is none the model was trained on: its crops are encoded as from an unknown camera", name
            )
        self._unknown_cameras |= strange
        return np.array([self._cameras.index_of(name) for name in names], np.int64)


def _sound(query: Features) -> NDArray[np.bool_]:
    """(B,) whether a query can be compared with anything."""
    good = np.isfinite(query.patches).all(axis=(1, 2))
    for vectors in (query.cls, query.descriptor):
        good &= np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    return np.asarray(good)


def _chosen(query: Features, rows: NDArray[np.bool_]) -> Features:
    if rows.all():
        return query
    kept = None if query.kept is None else query.kept[rows]
    return Features(query.cls[rows], query.patches[rows], query.descriptor[rows], kept)


def _kept(query: Features) -> NDArray[np.int64]:
    """(B, P) places of surviving patches; (B, 0) of an encoder that does not prune."""
    return np.empty((len(query.cls), 0), np.int64) if query.kept is None else query.kept


def _nobody(kept: NDArray[np.int64]) -> Identification:
    return Identification(None, "unknown", float("nan"), float("nan"), (), kept)


def _read_vectors(gallery: GalleryReader, dimension: int) -> None:
    """Search for anything: the first search reads and checks every vector, and has HNSW loaded."""
    anything = np.ones((1, dimension), np.float32)
    gallery.search(anything, 1)
    gallery.rank(anything, 1)


def _check_graph_constants(bundle: Bundle, settings: MatchSettings) -> None:
    """Refuse settings that are constants of the exported matcher and differ from the bundle's."""
    built = bundle.manifest.matching
    for name in ("sinkhorn_iterations", "sinkhorn_weights"):
        if getattr(settings, name) != getattr(built, name):
            raise BundleError(
                f"{name} is {getattr(built, name)} in the matcher of {bundle.folder}, not {getattr(settings, name)}: "
                "it is fixed at export; export again to change it"
            )
