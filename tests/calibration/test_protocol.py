import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

from calibration.protocol import Labels, relate, score_ranking
from runtime.errors import FpcError


def labels(*pairs: str) -> Labels:
    """Labels of texts like "7c1": person 7, camera c1."""
    return Labels.of([(pair.split("c")[0], "c" + pair.split("c")[1]) for pair in pairs])


def random_case(seed: int) -> tuple[NDArray[np.float32], Labels, Labels]:
    """40 queries and 150 gallery images of 12 people by 4 cameras; some queries have no match."""
    rng = np.random.default_rng(seed)
    query = Labels.of([(str(rng.integers(14)), f"c{rng.integers(4)}") for _ in range(40)])
    gallery = Labels.of([(str(rng.integers(12)), f"c{rng.integers(4)}") for _ in range(150)])
    return rng.normal(size=(40, 150)).astype(np.float32), query, gallery


def brute_force(similarity: NDArray[np.float32], query: Labels, gallery: Labels) -> dict[str, float]:
    """The protocol in plain loops, as its definition reads."""
    precisions, firsts = [], []
    for row in range(len(query)):
        ranked = sorted(range(len(gallery)), key=lambda column, row=row: -similarity[row, column])  # type: ignore[misc]
        place, hits, precision, first = 0, 0, 0.0, None
        for column in ranked:
            if gallery.identity[column] == query.identity[row]:
                if gallery.camera[column] == query.camera[row]:
                    continue
                hits += 1
                precision += hits / (place + 1)
                first = place if first is None else first
            place += 1
        if first is not None:
            precisions.append(precision / hits)
            firsts.append(first)
    rank = {f"rank{depth}": 100 * float(np.mean([first < depth for first in firsts])) for depth in (1, 5, 10)}
    return {"mean_ap": 100 * float(np.mean(precisions)), "queries": len(firsts), **rank}


def test_a_case_done_by_hand() -> None:
    """The gallery in the order of similarity: left out, wrong, right, wrong, right."""
    query, gallery = labels("1c1"), labels("1c1", "2c1", "1c2", "3c3", "1c3")
    scores = score_ranking(np.array([[0.9, 0.8, 0.7, 0.6, 0.5]], np.float32), relate(query, gallery))

    assert scores.mean_ap == pytest.approx(100 * (1 / 2 + 2 / 4) / 2)
    assert (scores.rank1, scores.rank5, scores.rank10) == (0, 100, 100)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_plain_loops(seed: int) -> None:
    similarity, query, gallery = random_case(seed)
    scores = score_ranking(similarity, relate(query, gallery))

    for name, expected in brute_force(similarity, query, gallery).items():
        assert getattr(scores, name) == pytest.approx(expected), name
    assert scores.queries + scores.without_match == 40
    assert scores.without_match > 0


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_torchmetrics(seed: int) -> None:
    similarity, query, gallery = random_case(seed)
    relations = relate(query, gallery)
    scores = score_ranking(similarity, relations)

    rows, columns = np.nonzero(~relations.left_out)
    positive = similarity - similarity.min() + 1  # torchmetrics takes what is not above 0 for not retrieved
    given = [torch.from_numpy(values[rows, columns]) for values in (positive, relations.matches)]
    index = torch.from_numpy(rows)
    precision = RetrievalMAP(empty_target_action="skip")(*given, indexes=index)
    assert scores.mean_ap == pytest.approx(100 * float(precision), abs=1e-4)
    for depth, found in ((1, scores.rank1), (5, scores.rank5), (10, scores.rank10)):
        hits = RetrievalHitRate(empty_target_action="skip", top_k=depth)(*given, indexes=index)
        assert found == pytest.approx(100 * float(hits), abs=1e-4), depth


def test_among_equals_the_earlier_image_goes_first() -> None:
    relations = relate(labels("1c1", "2c1"), labels("1c2", "2c2"))
    scores = score_ranking(np.zeros((2, 2), np.float32), relations)
    assert (scores.rank1, scores.mean_ap) == (50, 75)


def test_distractors_stay_in_the_ranking() -> None:
    relations = relate(labels("1c1"), labels("0000c1", "1c2"))
    assert score_ranking(np.array([[0.9, 0.1]], np.float32), relations).mean_ap == 50


def test_queries_without_a_match_are_not_counted_but_named() -> None:
    relations = relate(labels("1c1", "5c1"), labels("1c2", "5c1"))
    scores = score_ranking(np.array([[0.9, 0.1], [0.9, 0.1]], np.float32), relations)
    assert (scores.queries, scores.without_match, scores.mean_ap) == (1, 1, 100)


def test_nothing_to_measure() -> None:
    relations = relate(labels("1c1"), labels("1c1", "2c2"))
    with pytest.raises(FpcError, match="no query has a gallery image of the same person by another camera"):
        score_ranking(np.zeros((1, 2), np.float32), relations)


def test_nan_is_refused() -> None:
    relations = relate(labels("1c1"), labels("1c2", "2c2"))
    with pytest.raises(FpcError, match="not a number"):
        score_ranking(np.array([[np.nan, 0]], np.float32), relations)
