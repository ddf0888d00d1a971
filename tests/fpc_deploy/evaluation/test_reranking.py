import numpy as np
import pytest
from numpy.typing import NDArray

from fpc_deploy.evaluation.reranking import NAMED, Reranking, rerank
from runtime.errors import FpcError


def slow_rerank(
    query: NDArray[np.float64], gallery: NDArray[np.float64], k1: int, k2: int, share: float
) -> list[list[float]]:
    """Zhong et al., CVPR 2017, in sets and loops; returns final distances."""
    images = [vector / np.linalg.norm(vector) for vector in (*query, *gallery)]
    count = range(len(images))
    distance = [[float(((images[i] - images[j]) ** 2).sum()) for j in count] for i in count]
    distance = [[value / max(row) for value in row] for row in distance]
    rank = [sorted(count, key=lambda j, i=i: distance[i][j]) for i in count]  # type: ignore[misc]

    def reciprocal(image: int, depth: int) -> set[int]:
        return {other for other in rank[image][: depth + 1] if image in rank[other][: depth + 1]}

    encodings = []
    for image in count:
        near = reciprocal(image, k1)
        grown = set(near)
        for candidate in near:
            theirs = reciprocal(candidate, round(k1 / 2))
            if len(theirs & near) > 2 / 3 * len(theirs):
                grown |= theirs
        weights = {other: float(np.exp(-distance[image][other])) for other in grown}
        total = sum(weights.values())
        encodings.append([weights.get(other, 0.0) / total for other in count])
    if k2 > 1:
        encodings = [[sum(encodings[n][j] for n in rank[i][:k2]) / k2 for j in count] for i in count]
    answer = []
    for i in range(len(query)):
        row = []
        for j in range(len(query), len(images)):
            least = sum(min(a, b) for a, b in zip(encodings[i], encodings[j], strict=True))
            most = sum(max(a, b) for a, b in zip(encodings[i], encodings[j], strict=True))
            row.append((1 - share) * (1 - least / most) + share * distance[i][j])
        answer.append(row)
    return answer


@pytest.mark.parametrize(
    ("settings", "seed"),
    [(Reranking(20, 6, 0.3), 0), (Reranking(10, 1, 0.5), 1), (Reranking(5, 3, 0.0), 2), (Reranking(50, 15, 0.3), 3)],
    ids=str,
)
def test_agrees_with_sets_and_loops(settings: Reranking, seed: int) -> None:
    """With people in clusters, so that neighbours are mutual and sets grow."""
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(8, 16))
    query = people[rng.integers(8, size=12)] + 0.5 * rng.normal(size=(12, 16))
    gallery = people[rng.integers(8, size=70)] + 0.5 * rng.normal(size=(70, 16))

    found = rerank(query.astype(np.float32), gallery.astype(np.float32), settings)
    expected = slow_rerank(query, gallery, settings.k1, settings.k2, settings.share)
    worst = np.abs(1 - found - np.array(expected)).max(axis=1)
    assert worst.max() < 1e-5, f"query {worst.argmax()} is off by {worst.max():.1e}"


def test_lambda_1_keeps_the_order_of_the_cosine() -> None:
    rng = np.random.default_rng(4)
    query, gallery = (rng.normal(size=(n, 8)).astype(np.float32) for n in (5, 30))
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (query, gallery)]
    found = rerank(query, gallery, Reranking(20, 6, 1.0))
    assert (found.argsort(axis=1) == (unit[0] @ unit[1].T).argsort(axis=1)).all()


def test_a_gallery_smaller_than_k1() -> None:
    rng = np.random.default_rng(5)
    found = rerank(
        rng.normal(size=(2, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32), NAMED["authors"]
    )
    assert found.shape == (2, 3)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("authors", Reranking(50, 15, 0.3)), ("paper", Reranking(20, 6, 0.3)), ("7,2,0.1", Reranking(7, 2, 0.1))],
)
def test_settings_are_read(text: str, expected: Reranking) -> None:
    assert Reranking.parse(text) == expected


@pytest.mark.parametrize("text", ["", "20,6", "a,b,c", "0,6,0.3", "20,6,2"])
def test_settings_that_are_none(text: str) -> None:
    with pytest.raises(FpcError, match="re-ranking"):
        Reranking.parse(text)
