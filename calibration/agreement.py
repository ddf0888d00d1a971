"""How far a bundle of lower precision is from the one it was made of, over the whole way from crop to score."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibration.answers import Answers, unit
from calibration.protocol import Labels, Relations, relate, score_queries
from runtime.bundle import Bundle

TOP = 10
ONE_DEVIATION_BELOW = 15.87
"""Percentile that lies one standard deviation below the median of a normal distribution."""


@dataclass(frozen=True)
class Retrieval:
    """What finding people is worth before and after, in percent.

    Attributes:
        queries: number of queries that have a match.
        mean_ap: (reference, candidate) mean average precision.
        rank1: (reference, candidate) share of queries whose first image shows the right person.
        standard_error: of the difference in mean average precision, in points: the queries are a sample.
    """

    queries: int
    mean_ap: tuple[float, float]
    rank1: tuple[float, float]
    standard_error: float


@dataclass(frozen=True)
class Agreement:
    """How a candidate's answers compare with the reference's, over all queries.

    Attributes:
        queries: number of queries, occluded copies included.
        gallery: number of gallery crops.
        descriptor_cosine: mean cosine between the descriptors that both make of a query, before consolidation.
        worst_cosine: least such cosine.
        worst_query: its index.
        consolidated_cosine: mean cosine between what both rank by in the end.
        kept: {"block 3": mean share of patches that both keep}.
        top: mean share of the ten best gallery entries that both name.
        score_shift: mean difference of all scores, candidate minus reference.
        score_spread: standard deviation of those differences.
        score_deviation: standard deviation of the reference's scores between different people, which shift and spread
            are to be compared with; read off the lower half of all scores, where no scores of the same person lie.
        retrieval: {"clear": what finding people is worth}, one a part of the queries; empty where nobody is labelled.
    """

    queries: int
    gallery: int
    descriptor_cosine: float
    worst_cosine: float
    worst_query: int
    consolidated_cosine: float
    kept: dict[str, float]
    top: float
    score_shift: float
    score_spread: float
    score_deviation: float
    retrieval: dict[str, Retrieval] = field(default_factory=dict)


def compare_bundles(
    reference: Bundle,
    candidate: Bundle,
    queries: Mapping[str, NDArray[np.uint8]],
    gallery: NDArray[np.uint8],
    labels: tuple[Labels, Labels] | None = None,
) -> Agreement:
    """Encode, match and consolidate the same crops with both bundles, each over a gallery of its own making.

    Args:
        reference: the bundle that is trusted.
        candidate: the bundle of lower precision.
        queries: {part: (q, H, W, 3) uint8}, the same people in every part, none of the crops in the gallery.
        gallery: (n, H, W, 3) uint8.
        labels: of one part of the queries, and of the gallery; None leaves `retrieval` empty.
    """
    crops = np.concatenate(list(queries.values()))
    theirs, mine = (Answers(bundle, crops, gallery) for bundle in (reference, candidate))
    cosine = (unit(mine.descriptor) * unit(theirs.descriptor)).sum(axis=1)
    consolidated = (unit(mine.consolidated) * unit(theirs.consolidated)).sum(axis=1)
    count = min(TOP, max(1, len(gallery) // 2))  # of few entries the ten best would be all of them
    best, their_best = (np.argsort(-answers.scores, axis=1)[:, :count] for answers in (mine, theirs))
    difference = mine.scores.astype(np.float64) - theirs.scores
    below, middle = np.percentile(theirs.scores, (ONE_DEVIATION_BELOW, 50))
    return Agreement(
        queries=len(crops),
        gallery=len(gallery),
        descriptor_cosine=float(cosine.mean()),
        worst_cosine=float(cosine.min()),
        worst_query=int(cosine.argmin()),
        consolidated_cosine=float(consolidated.mean()),
        kept={block: _mean_overlap(mine.kept[block], places) for block, places in theirs.kept.items()},
        top=_mean_overlap(best, their_best),
        score_shift=float(difference.mean()),
        score_spread=float(difference.std()),
        score_deviation=float(middle - below),
        retrieval={} if labels is None else _retrieval(queries, theirs.scores, mine.scores, relate(*labels)),
    )


def _retrieval(
    queries: Mapping[str, NDArray[np.uint8]],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    relations: Relations,
) -> dict[str, Retrieval]:
    """Score each part of the queries, whose scores lie one part after the other."""
    if not relations.matches.any():
        return {}  # too few of the held-out images could be read
    found, start = {}, 0
    for part, crops in queries.items():
        rows = slice(start, start := start + len(crops))
        if not np.isfinite(after[rows]).all():
            after = np.nan_to_num(after, nan=-np.inf)  # what is not a number ranks last; other bounds name it
        found[part] = _paired(before[rows], after[rows], relations)
    return found


def _paired(before: NDArray[np.float32], after: NDArray[np.float32], relations: Relations) -> Retrieval:
    (precision, first), (candidate, candidate_first) = (score_queries(one, relations) for one in (before, after))
    return Retrieval(
        queries=len(precision),
        mean_ap=(100 * float(precision.mean()), 100 * float(candidate.mean())),
        rank1=(100 * float((first == 0).mean()), 100 * float((candidate_first == 0).mean())),
        standard_error=100 * float((candidate - precision).std() / np.sqrt(len(precision))),
    )


def _mean_overlap(found: NDArray[np.int64], reference: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(found, reference, strict=True)]))
