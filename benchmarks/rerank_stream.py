"""What k-reciprocal re-ranking costs where queries come one at a time, as a camera sends them.

`python -m benchmarks.rerank_stream --bundle BUNDLE [--entries 17661] [--queries 20]`

A query changes the neighbours of the gallery images near it, and by that their encodings. What no query changes is
kept: distances, neighbours and encodings of the gallery. What a query does change is made anew, and nothing else: the
answer is that of `rerank` for this query alone, and `--check` compares the two on a gallery of 1,500.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpc_deploy.evaluation.reranking import NAMED, Reranking, rerank
from runtime.bundle import Bundle
from runtime.gallery.synthetic import SyntheticPeople, synthetic_people

CHECKED_ENTRIES = 1500
Row = tuple[NDArray[np.int64], NDArray[np.float32]]


class KeptGallery:
    """A gallery of G images that is re-ranked for one query after another; index G is the query."""

    def __init__(self, gallery: NDArray[np.float32], settings: Reranking) -> None:
        self.settings, self.size, self.half = settings, len(gallery), round(settings.k1 / 2)
        self.unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
        # one more row and column, for the query
        self.squared = np.zeros((self.size + 1, self.size + 1), np.float32)
        for start in range(0, self.size, 256):
            part = self.unit[start : start + 256] @ self.unit.T
            self.squared[start : start + len(part), : self.size] = np.maximum(2 - 2 * part, 0)
        np.fill_diagonal(self.squared, 0)
        self.largest = self.squared.max(axis=1)
        self.near = np.zeros((self.size + 1, settings.k1 + 1), np.int64)
        for row in range(self.size):
            self.near[row] = self._nearest(self.squared[row, : self.size])
        every = np.arange(self.size)
        self.half_mutual = np.zeros((self.size + 1, self.half + 1), bool)
        self.half_mutual[: self.size] = self._half_mutual(self.near, every)
        self.rows: list[Row] = [self._encoding(row, self.near, self.half_mutual, self.largest) for row in every]
        self.dense = np.zeros((self.size + 1, self.size + 1), np.float32)
        for row, (places, weights) in enumerate(self.rows):
            self.dense[row, places] = weights
        # by column, as a query asks for it; the rows of those it changes are left out then
        self.averaged = np.zeros((self.size + 1, self.size), np.float32)
        for row in every:
            self.averaged[:, row] = self.dense[self.near[row, : settings.k2]].mean(axis=0)

    def answer(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (G,) similarities of one (D,) query, as `rerank` does."""
        size, k2 = self.size, self.settings.k2
        distance = np.maximum(2 - 2 * (self.unit @ (query / np.linalg.norm(query))), 0).astype(np.float32)
        self.squared[size, :size] = self.squared[:size, size] = distance
        largest = np.append(np.maximum(self.largest[:size], distance), distance.max())
        near = self.near.copy()
        near[size] = np.append(size, self._nearest(distance)[:-1])
        last = self.squared[np.arange(size), near[:size, -1]]
        listed = np.append(np.flatnonzero(distance < last), size)
        for row in listed[:-1].tolist():
            at = int(np.searchsorted(self.squared[row, near[row]], distance[row], side="right"))
            near[row] = np.insert(near[row], at, size)[:-1]
        changed = np.zeros(size + 1, bool)
        changed[listed] = True
        one_away = changed | changed[near].any(axis=1)
        half_mutual = self.half_mutual.copy()
        touched = np.flatnonzero(one_away)
        half_mutual[touched] = self._half_mutual(near, touched)
        anew = one_away | one_away[near].any(axis=1)
        anew[:size] |= distance > self.largest[:size]
        numbers = np.flatnonzero(anew).tolist()
        made = [self._encoding(row, near, half_mutual, largest) for row in numbers]
        self._replace(numbers, made)
        ours = self.dense[near[size, :k2]].mean(axis=0)
        places = np.flatnonzero(ours)
        shared = np.minimum(ours[places, None], self.averaged[places]).sum(axis=0)
        again = np.flatnonzero(anew[near[:size, :k2]].any(axis=1) | changed[:size])
        theirs = self.dense[near[again, :k2][:, :, None], places].mean(axis=1)
        shared[again] = np.minimum(ours[places], theirs).sum(axis=1)
        self._restore(numbers, made)
        jaccard = 1 - shared / (2 - shared)
        share = np.float32(self.settings.share)
        similarity: NDArray[np.float32] = 1 - ((1 - share) * jaccard + share * distance / largest[size])
        return similarity

    def _nearest(self, distance: NDArray[np.float32]) -> NDArray[np.int64]:
        count = self.settings.k1 + 1
        found = np.argpartition(distance, count)[:count]
        return found[np.argsort(distance[found], kind="stable")]

    def _half_mutual(self, near: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        near = near[:, : self.half + 1]
        mutual: NDArray[np.bool_] = (near[near[rows]] == rows[:, None, None]).any(axis=2)
        return mutual

    def _encoding(
        self, row: int, near: NDArray[np.int64], half_mutual: NDArray[np.bool_], largest: NDArray[np.float32]
    ) -> Row:
        mine = near[row]
        chosen = mine[(near[mine] == row).any(axis=1)]
        theirs, valid = near[chosen, : self.half + 1], half_mutual[chosen]
        shared = (np.isin(theirs, chosen) & valid).sum(axis=1)
        joins = shared > 2 / 3 * valid.sum(axis=1)
        places = np.unique(np.concatenate([chosen, theirs[joins][valid[joins]]]))
        weights = np.exp(-self.squared[row, places] / largest[row])
        return places, weights / weights.sum()

    def _replace(self, numbers: list[int], made: list[Row]) -> None:
        for row, (places, weights) in zip(numbers, made, strict=True):
            if row < self.size:
                self.dense[row, self.rows[row][0]] = 0
            self.dense[row, places] = weights

    def _restore(self, numbers: list[int], made: list[Row]) -> None:
        for row, (places, _) in zip(numbers, made, strict=True):
            self.dense[row, places] = 0
            if row < self.size:
                self.dense[row, self.rows[row][0]] = self.rows[row][1]


def asked(people: SyntheticPeople, entries: int, queries: int) -> NDArray[np.float32]:
    """(queries, D) descriptors that look like some of the gallery's, and are none of them."""
    found = people.queries(np.linspace(0, entries - 1, queries).astype(np.int64), 1).descriptor
    noise = np.random.default_rng(1).standard_normal(found.shape, np.float32)
    return found + np.float32(0.3 * np.abs(found).mean()) * noise


def check(people: SyntheticPeople, settings: Reranking) -> float:
    """Largest difference from `rerank` of one query alone."""
    gallery = people.vectors(0, CHECKED_ENTRIES)[1]
    kept = KeptGallery(gallery, settings)
    return max(
        float(np.abs(kept.answer(query) - rerank(query[None], gallery, settings)[0]).max())
        for query in asked(people, CHECKED_ENTRIES, 5)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--entries", type=int, default=17_661)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    people, settings = synthetic_people(Bundle.open(options.bundle)), NAMED["authors"]
    if options.check:
        print(f"largest difference from rerank of each query alone: {check(people, settings):.1e}")
    start = time.perf_counter()
    kept = KeptGallery(people.vectors(0, options.entries)[1], settings)
    print(f"{options.entries} entries kept in {time.perf_counter() - start:.0f} s")
    taken = []
    for query in asked(people, options.entries, options.queries):
        start, cpu = time.perf_counter(), time.process_time()
        kept.answer(query)
        taken.append((time.perf_counter() - start, time.process_time() - cpu))
    clock, of_cpu = 1000 * np.median(np.array(taken), axis=0)
    print(f"re-ranking of one query at a time: {clock:.1f} ms a query ({of_cpu:.1f} of CPU), median of {len(taken)}")


if __name__ == "__main__":
    main()
