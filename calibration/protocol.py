"""The protocol of person re-identification: which gallery images count for a query, and the scores of a ranking.

For each query, gallery images of the same person by the same camera are left out (they are often the very same moment),
and all others are ranked. As published with Market-1501 (Zheng et al., ICCV 2015) and used ever since.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.errors import FpcError


@dataclass(frozen=True)
class Labels:
    """Who is on n images, and which camera took them.

    Attributes:
        identity: (n,) str.
        camera: (n,) str.
    """

    identity: NDArray[np.str_]
    camera: NDArray[np.str_]

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> "Labels":
        """Make labels of (identity, camera) pairs."""
        return cls(np.array([one for one, _ in pairs], np.str_), np.array([other for _, other in pairs], np.str_))

    def __len__(self) -> int:
        return len(self.identity)


@dataclass(frozen=True)
class Scores:
    """What a ranking is worth, in percent.

    Attributes:
        mean_ap: mean over queries of average precision.
        rank1: share of queries whose first image shows the right person.
        rank5: share with the right person among the first five.
        rank10: share with the right person among the first ten.
        queries: queries counted: those that have a match.
        without_match: queries not counted, as no other camera saw their person.
    """

    mean_ap: float
    rank1: float
    rank5: float
    rank10: float
    queries: int
    without_match: int


@dataclass(frozen=True)
class Relations:
    """How Q queries relate to G gallery images.

    Attributes:
        matches: (Q, G) bool, the same person by another camera.
        left_out: (Q, G) bool, the same person by the same camera.
    """

    matches: NDArray[np.bool_]
    left_out: NDArray[np.bool_]


def relate(query: Labels, gallery: Labels) -> Relations:
    """Compare the labels of all pairs."""
    same_identity, same_camera = (
        _equal(mine, theirs) for mine, theirs in ((query.identity, gallery.identity), (query.camera, gallery.camera))
    )
    return Relations(same_identity & ~same_camera, same_identity & same_camera)


def score_ranking(similarity: NDArray[np.float32], relations: Relations) -> Scores:
    """Score the ranking that a similarity gives; among equals the earlier gallery image goes first.

    Args:
        similarity: (Q, G), larger is nearer.
        relations: of the same queries and gallery images.

    Raises:
        FpcError: no query has a match, or a similarity is not a number.
    """
    precision, first = score_queries(similarity, relations)
    rank = {depth: 100 * float((first < depth).mean()) for depth in (1, 5, 10)}
    return Scores(
        mean_ap=100 * float(precision.mean()),
        rank1=rank[1],
        rank5=rank[5],
        rank10=rank[10],
        queries=len(precision),
        without_match=len(similarity) - len(precision),
    )


def score_queries(
    similarity: NDArray[np.float32], relations: Relations
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the average precision, in 0..1, and the place of the first hit, from 0, of each query that has a match.

    Arguments and errors are those of `score_ranking`.
    """
    if np.isnan(similarity).any():
        raise FpcError("a similarity is not a number: the model answers with NaN")
    counted = np.flatnonzero(relations.matches.any(axis=1))
    if not len(counted):
        raise FpcError("no query has a gallery image of the same person by another camera: there is nothing to measure")
    precision = np.empty(len(counted))
    first = np.empty(len(counted), np.int64)  # place of the first hit, from 0
    for place, row in enumerate(counted):
        ranked = ~relations.left_out[row]
        order = np.argsort(-similarity[row, ranked], kind="stable")
        hits = np.flatnonzero(relations.matches[row, ranked][order])
        precision[place] = np.mean(np.arange(1, len(hits) + 1) / (hits + 1))
        first[place] = hits[0]
    return precision, first


def _equal(mine: NDArray[np.str_], theirs: NDArray[np.str_]) -> NDArray[np.bool_]:
    """(n, m) bool; compared as numbers, as text is slow to compare."""
    _, codes = np.unique(np.concatenate([mine, theirs]), return_inverse=True)
    equal: NDArray[np.bool_] = codes[: len(mine), None] == codes[None, len(mine) :]
    return equal
