"""k-reciprocal re-ranking (Zhong et al., CVPR 2017): two images that have the same neighbours are near each other.

It looks at all queries at once, which a camera cannot, so it is here for comparison with published tables only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.errors import FpcError

_ROWS_AT_ONCE = 256  # of a distance matrix that is sorted: bounds memory


@dataclass(frozen=True)
class Reranking:
    """Settings of k-reciprocal re-ranking.

    Attributes:
        k1: neighbours that are asked whether they are mutual.
        k2: neighbours whose encodings are averaged.
        share: lambda, share of the original distance in the final one.
    """

    k1: int
    k2: int
    share: float

    @classmethod
    def parse(cls, text: str) -> "Reranking":
        """Read `authors`, `paper`, or k1, k2 and lambda as in `20,6,0.3`.

        Raises:
            FpcError: it is none of them.
        """
        if text in NAMED:
            return NAMED[text]
        try:
            k1, k2, share = text.split(",")
            found = cls(int(k1), int(k2), float(share))
        except ValueError:
            raise FpcError(f"re-ranking {text!r}: give authors, paper, or k1,k2,lambda as in 20,6,0.3") from None
        if found.k1 < 1 or found.k2 < 1 or not 0 <= found.share <= 1:
            raise FpcError(f"re-ranking {text!r}: k1 and k2 must be at least 1, lambda in 0..1")
        return found

    def __str__(self) -> str:
        return f"{self.k1},{self.k2},{self.share:g}"


NAMED = {
    "authors": Reranking(50, 15, 0.3),  # published FPC and TransReID code
    "paper": Reranking(20, 6, 0.3),  # Zhong et al., section 4.1
}


def rerank(query: NDArray[np.float32], gallery: NDArray[np.float32], settings: Reranking) -> NDArray[np.float32]:
    """Re-rank a gallery for all queries.

    Args:
        query: (Q, D) descriptors.
        gallery: (G, D) descriptors.
        settings: k1, k2 and lambda.

    Returns:
        (Q, G) float32 similarity, 1 minus the final distance.
    """
    queries, count = len(query), len(query) + len(gallery)
    distance = _distances(np.concatenate([query, gallery]))
    k1, k2 = min(settings.k1, count - 1), min(settings.k2, count)
    nearest = _nearest(distance, max(k1 + 1, k2))
    encoding = _reciprocal_encoding(distance, nearest, k1)
    if k2 > 1:
        encoding = _averaged(encoding, nearest[:, :k2])
    columns = np.ascontiguousarray(encoding[queries:].T)  # (Q + G, G): what a query does not touch is never read
    similarity = np.empty((queries, len(gallery)), np.float32)
    for row in range(queries):
        touched = np.flatnonzero(encoding[row])
        shared = np.minimum(encoding[row, touched, None], columns[touched]).sum(axis=0)
        jaccard = 1 - shared / (2 - shared)  # each encoding sums to 1
        similarity[row] = 1 - ((1 - settings.share) * jaccard + settings.share * distance[row, queries:])
    return similarity


def _distances(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, n) squared distances of unit vectors, each row scaled by its largest."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distance: NDArray[np.float32] = unit @ unit.T
    distance *= -2  # in place: for Occluded-Duke each copy takes 1.6 GB
    distance += 2
    np.maximum(distance, 0, out=distance)
    np.fill_diagonal(distance, 0)  # rounding must not put anything before the image itself
    distance /= distance.max(axis=1, keepdims=True)
    return distance


def _nearest(distance: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """(n, count) nearest of each row, nearest first."""
    nearest = np.empty((len(distance), count), np.int64)
    for start in range(0, len(distance), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        nearest[part] = np.argsort(distance[part], axis=1, kind="stable")[:, :count]
    return nearest


def _mutual(nearest: NDArray[np.int64], depth: int) -> NDArray[np.bool_]:
    """(n, depth + 1) whether a neighbour has the row among its own `depth` nearest (and itself)."""
    near = nearest[:, : depth + 1]
    rows = np.arange(len(near))[:, None, None]
    mutual: NDArray[np.bool_] = (near[near] == rows).any(axis=2)
    return mutual


def _reciprocal_encoding(distance: NDArray[np.float32], nearest: NDArray[np.int64], k1: int) -> NDArray[np.float32]:
    """(n, n) float32, rows sum to 1: how much of an image's reciprocal neighbourhood each other image is."""
    half = round(k1 / 2)
    mutual, half_mutual = _mutual(nearest, k1), _mutual(nearest, half)
    half_size = half_mutual.sum(axis=1)
    encoding = np.zeros(distance.shape, np.float32)
    for row in range(len(distance)):
        chosen = nearest[row, : k1 + 1][mutual[row]]
        member = np.zeros(len(distance), bool)
        member[chosen] = True
        theirs = nearest[chosen, : half + 1]  # (c, half + 1), of which `valid` are mutual
        valid = half_mutual[chosen]
        shared = (member[theirs] & valid).sum(axis=1)
        joins = shared > 2 / 3 * half_size[chosen]  # 2/3: Zhong et al., eq. 3
        member[theirs[joins][valid[joins]]] = True
        places = np.flatnonzero(member)
        weights = np.exp(-distance[row, places])
        encoding[row, places] = weights / weights.sum()
    return encoding


def _averaged(encoding: NDArray[np.float32], nearest: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, n) mean of the encodings of each image's nearest."""
    averaged = np.empty_like(encoding)
    for row, near in enumerate(nearest):
        averaged[row] = encoding[near].mean(axis=0)
    return averaged
