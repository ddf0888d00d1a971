"""HNSW over whole vectors, over fewer coordinates, and over short numbers: memory, building, a search, its recall.

Run `python -m benchmarks.reduced_hnsw --entries 200000`; where usearch or faiss-cpu are installed (the project needs
neither) `--others` compares their float16 and 8-bit vectors. Every kind proposes, and the 100 nearest are chosen by the
whole vectors; the kinds take turns at each query. Memory is what building leaves behind.
"""

import argparse
import gc
import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery import REFINE
from benchmarks.identities import queries, vectors
from benchmarks.large_gallery import memory
from runtime.gallery import Settings
from runtime.gallery import graph as hnsw

SETTINGS = Settings()
QUERIES = 200
PROPOSED = (108, 216, 324)  # ids proposed and looked at for the 100 nearest; a gallery asks for 8 to spare
Search = Callable[[NDArray[np.float32], int, int], NDArray[np.int64]]
"""From a query (D,), how many to propose and how many to look at on the way (ef), to ids."""


def ours(units: NDArray[np.float32], coordinates: int) -> Search:
    """The graph of a gallery, over as many coordinates."""
    sample = np.linspace(0, len(units) - 1, hnsw.LEARNT_FROM).astype(np.int64)
    basis = hnsw.learn_basis(units[sample], coordinates)
    graph = hnsw.empty(len(units), units.shape[1], basis, SETTINGS)
    for at in range(0, len(units), 16_384):
        part = units[at : at + 16_384]
        hnsw.extend(graph, np.arange(at, at + len(part)), part)

    def search(query: NDArray[np.float32], count: int, effort: int) -> NDArray[np.int64]:
        graph.index.set_ef(effort)
        labels, _ = graph.index.knn_query(hnsw.reduced(query[None], basis), count, num_threads=1)
        return np.asarray(labels[0], np.int64)

    return search


def usearch(units: NDArray[np.float32], dtype: str) -> Search:
    index: Any = importlib.import_module("usearch.index").Index(
        ndim=units.shape[1],
        metric="ip",
        dtype=dtype,
        connectivity=SETTINGS.links,
        expansion_add=SETTINGS.build_effort,
    )
    index.add(np.arange(len(units)), units)

    def search(query: NDArray[np.float32], count: int, effort: int) -> NDArray[np.int64]:
        index.expansion_search = effort
        return np.asarray(index.search(query, count, threads=1).keys, np.int64).ravel()

    return search


def faiss_sq8(units: NDArray[np.float32], _: str) -> Search:
    faiss: Any = importlib.import_module("faiss")
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexHNSWSQ(units.shape[1], kind, SETTINGS.links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = SETTINGS.build_effort
    index.train(units[:: max(len(units) // hnsw.LEARNT_FROM, 1)])
    index.add(units)

    def search(query: NDArray[np.float32], count: int, effort: int) -> NDArray[np.int64]:
        index.hnsw.efSearch = effort
        return np.asarray(index.search(query[None], count)[1][0], np.int64)

    return search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--coordinates", default="768,384,256,192,128")
    parser.add_argument("--others", action="store_true", help="usearch and faiss too")
    options = parser.parse_args()
    units, asked = (
        made / np.linalg.norm(made, axis=1, keepdims=True)
        for made in (
            vectors(0, options.entries, options.dimension),
            queries(options.entries, QUERIES, options.dimension),
        )
    )
    exact = [np.argpartition(-(units @ query), REFINE)[:REFINE] for query in asked]
    kinds: list[tuple[str, Callable[..., Search], Any]] = [
        (f"hnswlib float32, {n} coordinates", ours, int(n)) for n in options.coordinates.split(",")
    ]
    if options.others:
        kinds += [("usearch f16", usearch, "f16"), ("usearch i8", usearch, "i8"), ("faiss SQ8", faiss_sq8, "")]
    print("| kind | build s | bytes an entry | load |\n| --- | --- | --- | --- |")
    searches: dict[str, Search] = {}
    for name, make, argument in kinds:
        before, start = memory()["own"], time.perf_counter()
        searches[name] = make(units, argument)
        took = time.perf_counter() - start
        gc.collect()
        held = (memory()["own"] - before) * 2**20 / len(units)
        print(f"| {name} | {took:.0f} | {held:.0f} | {os.getloadavg()[0]:.1f} |", flush=True)
    print("\n| kind | proposed | ef | p50 ms | p99 ms | recall |\n" + "| --- " * 6 + "|")
    for proposed in PROPOSED:
        for effort in (proposed, 2 * proposed):
            compare(units, asked, exact, searches, proposed, effort)


def compare(
    units: NDArray[np.float32],
    asked: NDArray[np.float32],
    exact: list[NDArray[np.int64]],
    searches: dict[str, Search],
    proposed: int,
    effort: int,
) -> None:
    """Ask all kinds each query by turns; print a line for each kind."""
    took: dict[str, list[float]] = {name: [] for name in searches}
    hits: dict[str, list[float]] = {name: [] for name in searches}
    for query, nearest in zip(asked, exact, strict=True):
        for name, search in searches.items():
            start = time.perf_counter()
            ids = search(query, proposed, effort)
            chosen = ids[np.argsort(-(units[ids].astype(np.float64) @ query))[:REFINE]]
            took[name].append(1000 * (time.perf_counter() - start))
            hits[name].append(len(np.intersect1d(chosen, nearest)) / REFINE)
    for name, ms in took.items():
        p50, p99 = np.percentile(ms, [50, 99])
        print(f"| {name} | {proposed} | {effort} | {p50:.2f} | {p99:.2f} | {np.mean(hits[name]):.4f} |", flush=True)


if __name__ == "__main__":
    main()
