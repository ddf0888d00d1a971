"""What a configuration takes the similarity of queries and gallery for, by the very steps of `runtime.pipeline`.

- without M and C: the cosine of their descriptors;
- with M: 1 - ((1 - alpha) (1 - cosine) + alpha EMD) for the best `refine` by cosine of [cls], as `run` has it without a
  decoder; all others follow, in the order of the row without M;
- with C: the cosine of the rebuilt descriptor with the gallery's descriptor. The K neighbours it is rebuilt from are
  the nearest by cosine, or with M the nearest by cosine and EMD; at a second pass those of the rebuilt descriptor.

The first cosine is of [cls] or of descriptors, as the bundle's settings say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fpc_deploy.evaluation.sides import KnownPeople
from runtime.bundle import Bundle, MatchSettings
from runtime.encoder import Features
from runtime.errors import FpcError
from runtime.gallery.protocol import Candidates
from runtime.matching import Consolidator, Matcher, Neighbours, find_candidates, neighbours_of


@dataclass(frozen=True)
class Graphs:
    """A bundle, and what runs its graphs.

    Attributes:
        bundle: where the graphs come from.
        engine: name of the engine.
        threads: of one run; None leaves it to the engine.
    """

    bundle: Bundle
    engine: str = "auto"
    threads: int | None = None


BEHIND = 3.0
"""Taken off the similarity of images that M did not look at: 1 - D is at least -1, a cosine at most 1."""
_QUERIES_AT_ONCE = 4  # each reads the tokens of its candidates: 100 of a ViT-B are 37 MB

Hidden = NDArray[np.bool_] | None
"""(Q, G) images that may not be candidates; None lets all be."""
Count = Callable[[int, int], None]
"""Called with (queries done, queries in all)."""


@dataclass(frozen=True)
class Answer:
    """How near the gallery is to each query.

    Attributes:
        similarity: (Q, G) float32, larger is nearer.
        descriptors: (Q, D) float32, what the queries were ranked by; None where M alone ranked them.
        neighbours: (Q, K) int64 places in the gallery of what `run` shows as neighbours; None where none were sought.
    """

    similarity: NDArray[np.float32]
    descriptors: NDArray[np.float32] | None
    neighbours: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Ordered:
    """Candidates of Q queries, nearest first: (Q, C) int64 entries and (Q, C) float32 distances."""

    entries: NDArray[np.int64]
    distance: NDArray[np.float32]


def compare_descriptors(descriptors: NDArray[np.float32], people: KnownPeople) -> Answer:
    """Take the cosine of (Q, D) descriptors, the queries' own or rebuilt ones, with the gallery's."""
    unit = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    return Answer(np.asarray(unit @ people.descriptors.T, np.float32), descriptors)


def compare_candidates(
    descriptors: NDArray[np.float32], ordered: Ordered, people: KnownPeople, neighbours: int
) -> Answer:
    """Put the ordered candidates first, and the rest behind them by the cosine of (Q, D) descriptors.

    Args:
        descriptors: of the queries.
        ordered: their candidates.
        people: the gallery.
        neighbours: K, how many candidates `run` shows as neighbours.
    """
    similarity = compare_descriptors(descriptors, people).similarity - np.float32(BEHIND)
    np.put_along_axis(similarity, people.columns(ordered.entries), 1 - ordered.distance, axis=1)
    return Answer(similarity, None, people.columns(ordered.entries[:, :neighbours]))


def order_candidates(
    graphs: Graphs,
    settings: MatchSettings,
    query: Features,
    people: KnownPeople,
    left_out: NDArray[np.bool_] | None,
    count: Count,
) -> Ordered:
    """Find the candidates of each query and order them as the matcher does; alpha 0 leaves them in order of cosine.

    Args:
        graphs: whose matcher is used.
        settings: candidates, alpha and what the first search goes by.
        query: Q encoded queries.
        people: the gallery.
        left_out: (Q, G) images that may not be candidates; None lets all be.
        count: progress.

    Raises:
        FpcError: a query has no candidate left.
    """
    wanted = min(max(settings.refine, settings.neighbours), len(people.labels))
    matcher = Matcher(graphs.bundle, settings.model_copy(update={"neighbours": wanted}), graphs.engine, graphs.threads)
    found: list[Ordered] = []
    total = len(query.cls)
    for start in range(0, total, _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        some = Features(query.cls[part], query.patches[part], query.descriptor[part])
        hidden = None if left_out is None else left_out[part]
        candidates = _allowed(partial(find_candidates, some, settings, people.gallery), people, hidden, wanted)
        if settings.alpha > 0:
            refined = matcher.refine(some, candidates.entries, candidates.cosine, people.gallery)
            found.append(Ordered(refined.entries, refined.distance))
        else:
            found.append(Ordered(candidates.entries, 1 - candidates.cosine))
        count(min(start + _QUERIES_AT_ONCE, total), total)
    fewest = min(one.entries.shape[1] for one in found)
    entries = np.concatenate([one.entries[:, :fewest] for one in found])
    return Ordered(entries, np.concatenate([one.distance[:, :fewest] for one in found]))


def rebuild(
    graphs: Graphs,
    settings: MatchSettings,
    query: Features,
    ordered: Ordered,
    people: KnownPeople,
    left_out: NDArray[np.bool_] | None,
    count: Count,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (Q, D) float32 descriptors, each rebuilt from the query's first K candidates, as often as settings say.

    With them come the (Q, K) int64 entries that each was rebuilt from in the end.

    Args:
        graphs: whose decoder is used.
        settings: K, passes and the temperature of neighbours.
        query: Q encoded queries.
        ordered: their candidates.
        people: the gallery.
        left_out: as for `order_candidates`; holds for neighbours of a later pass too.
        count: progress.
    """
    temperature, neighbours = settings.neighbour_temperature, settings.neighbours
    consolidator = Consolidator(graphs.bundle, graphs.engine, graphs.threads, temperature=temperature)
    total, parts = len(query.cls), []
    used: list[NDArray[np.int64]] = []
    for start in range(0, total, _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        entries, distance = ordered.entries[part, :neighbours], ordered.distance[part, :neighbours]
        nearest = Neighbours(entries, distance, people.gallery.stored(entries.ravel()))
        some = Features(query.cls[part], query.patches[part], query.descriptor[part])
        sought = [nearest]
        hidden = None if left_out is None else left_out[part]

        def find(
            rebuilt: NDArray[np.float32], sought: list[Neighbours] = sought, hidden: Hidden = hidden
        ) -> Neighbours:
            sought.append(_neighbours_of_rebuilt(people, hidden, neighbours, rebuilt))
            return sought[-1]

        parts.append(consolidator.consolidate_again(some, nearest, settings.passes, find))
        used.append(sought[-1].entries)
        count(min(start + _QUERIES_AT_ONCE, total), total)
    fewest = min(entries.shape[1] for entries in used)
    return np.concatenate(parts), np.concatenate([entries[:, :fewest] for entries in used])


def _neighbours_of_rebuilt(
    people: KnownPeople, left_out: NDArray[np.bool_] | None, wanted: int, rebuilt: NDArray[np.float32]
) -> Neighbours:
    found = _allowed(partial(people.gallery.rank, rebuilt), people, left_out, wanted)
    return neighbours_of(found, people.gallery)


def _allowed(
    search: Callable[[int], Candidates], people: KnownPeople, left_out: NDArray[np.bool_] | None, wanted: int
) -> Candidates:
    """Search for so many candidates; images left out are replaced by the next ones."""
    if left_out is None:
        return search(wanted)
    most = int(left_out.sum(axis=1).max())
    found = search(wanted + most)
    allowed = ~np.take_along_axis(left_out, people.columns(found.entries), axis=1)
    width = min(wanted, int(allowed.sum(axis=1).min()))
    if not width:
        raise FpcError("a query has only images of its own person and camera in the gallery: it has no candidate left")
    places = np.argsort(~allowed, axis=1, kind="stable")[:, :width]  # the allowed ones, in their order
    return Candidates(
        np.take_along_axis(found.entries, places, axis=1), np.take_along_axis(found.cosine, places, axis=1)
    )
