"""The EMD between queries and their candidates: in pieces that fit a processor's cache, on all processors at once.

The similarities of one query and one candidate (242 x 126 float32) are gone through a dozen times. Where they stay in
the second-level cache that is cheap; those of all 100 candidates together would go to memory each time. So a query's
candidates are taken a few at a time, in the order of the disk, and each processor works on pieces of its own with one
thread: they wait for each other once a batch and not after every operator.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.encoder import Features
from runtime.engines import Engine, open_engine, open_graph
from runtime.gallery.protocol import StoredTokens

ROWS_PRODUCT = Path(__file__).with_name("rows_product.onnx")
"""`product` (n, m) of the rows of `a` (n, D) and `b` (m, D), float32; `benchmarks/matmul_graphs.py` writes it."""
_CACHE_BYTES = 2**20
"""Similarities of one piece; second-level caches have 1 to 2 MB a processor."""
_QUERY_STEPS = 63
"""Steps of a query's coordinate on either side of 0. A processor without VNNI adds two products of bytes in 16 bits,
which 255 * 63 * 2 does not overflow; with 127 steps it would."""
SINKHORN_REGULARISATION = 0.05
"""Entropic regularisation of the EMD (`K = exp((S - 1) / 0.05)` in the published code)."""
LEAST_MASS = 1e-20
"""Added to every weight of a side of the compact EMD: it moves nothing, and no denominator of Sinkhorn is 0."""
_WEIGHT_FLOOR = np.float32(1e-7)  # as in the published code: a side without any positive weight stays at 0
_LARGEST_EXPONENT = 80.0  # e^80 is still a float32
_LEAST = np.float32(1e-12)  # as torch.nn.functional.normalize, for a vector of zeros


class Emd(Protocol):
    """Distances of B queries to their C candidates."""

    def distances(self, query: Features, candidates: StoredTokens) -> NDArray[np.float32]:
        """Return (B, C) float32; `candidates` are those of the first query, then of the second, and so on."""


@dataclass(frozen=True)
class CodedQuery:
    """One query as `compact_matcher.onnx` takes it.

    Tokens of a model may nearly all point one way, and what tells them apart then is less than a step of a byte. So the
    mean of a query's patches is taken off them, and what is left has a step of its own. To a patch of a candidate the
    mean is equally near for all patches of the query, which changes no transport and only adds to its cost; it is coded
    in two bytes a coordinate.

    Attributes:
        codes: (R, M + 3) int8: unit patches without their mean, in the basis; the centre without its share of the mean;
            then the mean, coarse, and what the coarse one lacks.
        step: () float32, length of a step of the patches.
        mix: (3, 2) float32: makes products with the last three columns, in steps of the patches, those with the centre
            and with the mean.
    """

    codes: NDArray[np.int8]
    step: np.float32
    mix: NDArray[np.float32]


def code_query(coordinates: NDArray[np.float32], centre: NDArray[np.float32]) -> CodedQuery:
    """Code unit patches and their centre, (M, R) and (R,) coordinates in the basis of a gallery."""
    mean = coordinates.mean(axis=0)
    left = coordinates - mean
    step = _step(left)
    share = centre @ mean / max(float(mean @ mean), float(_LEAST))
    centre_codes, centre_step = _column(centre - share * mean, step)
    coarse, coarse_step = _column(mean, step)
    fine, fine_step = _column(mean - coarse * coarse_step, step)
    left /= step
    codes = np.empty((len(mean), len(left) + 3), np.int8)
    codes[:, :-3] = np.rint(left, out=left).T
    codes[:, -3:] = np.stack([centre_codes, coarse, fine], axis=1)
    mix = np.array([[centre_step, 0], [share * coarse_step, coarse_step], [share * fine_step, fine_step]], np.float32)
    return CodedQuery(codes, step, mix / step)


def _column(vector: NDArray[np.float32], patch_step: np.float32) -> tuple[NDArray[np.float32], np.float32]:
    """Return a column of codes and its step.

    The exponential is taken of all columns alike, as if this one had the step of the patches: it must not overflow.
    """
    longest = _LARGEST_EXPONENT * SINKHORN_REGULARISATION / float(patch_step)
    step = max(_step(vector), np.float32(np.linalg.norm(vector) / longest))
    return np.rint(vector / step), step


def _step(vectors: NDArray[np.float32]) -> np.float32:
    return np.float32(max(float(vectors.max()), -float(vectors.min()), float(_LEAST)) / _QUERY_STEPS)


class FloatEmd:
    """The EMD by `matcher.onnx`, which takes candidates of any codec as float32.

    Args:
        bundle: where the graph comes from.
        engine: name of the engine.
        threads: processors to use; None is all.
    """

    def __init__(self, bundle: Bundle, engine: str, threads: int | None) -> None:
        first = open_graph(bundle, "matcher", engine, threads)
        # a device has caches and threads of its own: it takes all candidates of a query at once
        self._whole = first.name.split("-")[-1] != "cpu"
        self._pool = _Workers(
            [first] if self._whole else [open_graph(bundle, "matcher", engine, 1) for _ in range(processors(threads))]
        )

    def distances(self, query: Features, candidates: StoredTokens) -> NDArray[np.float32]:
        """See `Emd.distances`."""

        def measure(engine: Engine, row: int, which: Sequence[int]) -> NDArray[np.generic]:
            asked = {"query_cls": query.cls[row : row + 1], "query_patches": query.patches[row : row + 1]}
            given = {"candidate_cls": candidates.cls[None, which], "candidate_patches": candidates.patches(which)[None]}
            emd: NDArray[np.generic] = engine.run(asked | given)["emd"][0]
            return emd

        step = None if self._whole else _piece(query, candidates)
        return self._pool.run(len(query.cls), candidates, step, measure)


class CompactEmd:
    """The EMD by `compact_matcher.onnx`, over the bytes of a compact gallery.

    Queries are coded by the same threads, with products in ONNX Runtime too: those of numpy's threads wait for each
    other in a loop, and on a busy machine that took longer than the EMD.

    Args:
        bundle: where the graph comes from.
        threads: processors to use; None is all.
    """

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        path, workers = bundle.graph_path("compact_matcher"), range(processors(threads))
        self._pool = _Workers([open_engine(path, "onnxruntime", 1) for _ in workers])
        self._products = [open_engine(ROWS_PRODUCT, "onnxruntime", 1) for _ in workers]
        self._by_cls = bundle.manifest.matching.sinkhorn_weights == "cls"

    def distances(self, query: Features, candidates: StoredTokens) -> NDArray[np.float32]:
        """See `Emd.distances`."""
        records = candidates.records
        if candidates.codec.basis is None or records is None:
            raise ValueError("the compact matcher reads galleries of a compact codec")
        asked: list[_Asked] = self._pool.map(len(query.cls), self._coder(query, candidates, candidates.codec.basis))
        each = len(records) // len(asked)

        def measure(engine: Engine, row: int, which: Sequence[int]) -> NDArray[np.generic]:
            chosen, mine = [records[index] for index in which], asked[row]
            given: dict[str, NDArray[np.generic]] = {
                "query_codes": mine.coded.codes,
                "query_mix": mine.coded.mix,
                "candidate_codes": np.stack([record["codes"] for record in chosen]),
                "candidate_steps": np.concatenate([record["scales"] for record in chosen]) * mine.step,
            }
            at = np.array(which) - row * each
            if self._by_cls:
                given["demand"] = mine.demand[at]
            emd = np.asarray(engine.run(given)["emd"], np.float32)
            return 1 - (1 - emd) * mine.mass[at] if self._by_cls else emd

        return self._pool.run(len(asked), candidates, _piece(query, candidates), measure)

    def _coder(
        self, query: Features, candidates: StoredTokens, basis: NDArray[np.float32]
    ) -> Callable[[int, int], "_Asked"]:
        """What codes a query: given a worker's number and a row."""
        rank, patches = basis.shape[1], query.patches.shape[1]
        turned = np.ascontiguousarray(basis.T)
        theirs = candidates.cls.reshape(len(query.cls), -1, len(basis))  # (B, C, D)

        def code(worker: int, row: int) -> _Asked:
            ours = np.concatenate([query.patches[row], query.cls[row : row + 1]])  # (M + 1, D)
            ours *= _inverse_norm(ours)[:, None]
            inputs = {"a": ours, "b": np.concatenate([turned, theirs[row]])}
            products = np.asarray(self._products[worker].run(inputs)["product"], np.float32)  # (M + 1, R + C)
            coordinates, centre = products[:patches, :rank], products[patches, :rank]
            coded = code_query(coordinates, centre if self._by_cls else coordinates.mean(axis=0))
            cosine = products[:patches, rank:].T * _inverse_norm(theirs[row])[:, None]  # (C, M)
            return _Asked(coded, np.float32(coded.step / SINKHORN_REGULARISATION), *demand_of(cosine))

        return code


@dataclass(frozen=True)
class _Asked:
    """A query, and for each of its candidates what `demand_of` gives."""

    coded: CodedQuery
    step: np.float32
    demand: NDArray[np.float32]
    mass: NDArray[np.float32]


def demand_of(cosine: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weigh a query's patches by their (n, M) cosines with the [cls] of n candidates.

    Returns:
        (n, 1, M + 3) weights that sum to 1, the last three 0; and (n,), the sum that the published code gives them:
        less than 1 only where hardly a cosine is positive.
    """
    wanted = np.maximum(cosine, 0)
    total = wanted.sum(axis=1)
    demand = np.zeros((len(wanted), 1, wanted.shape[1] + 3), np.float32)
    wanted += np.float32(LEAST_MASS)
    np.divide(wanted, wanted.sum(axis=1, keepdims=True), out=demand[:, 0, :-3])
    return demand, total / (total + _WEIGHT_FLOOR)


Made = TypeVar("Made")
Measure = Callable[[Engine, int, Sequence[int]], NDArray[np.generic]]
"""Distances of a query, by its row, to some candidates, by their indices."""


class _Workers:
    """One engine a processor, each with one thread; they take pieces of the work until none is left."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._threads = ThreadPoolExecutor(len(engines), "emd")

    def map(self, count: int, work: Callable[[int, int], Made]) -> list[Made]:
        """Return what `work` makes of 0 to `count`; it is told the worker's number too."""
        made: dict[int, Made] = {}
        turn = itertools.count()  # `next` of it is atomic

        def take(worker: int) -> None:
            while (number := next(turn)) < count:
                made[number] = work(worker, number)

        if len(self._engines) == 1:
            take(0)
        else:
            list(self._threads.map(take, range(len(self._engines))))
        return [made[number] for number in range(count)]

    def run(self, queries: int, candidates: StoredTokens, step: int | None, measure: Measure) -> NDArray[np.float32]:
        """Return (B, C) distances; candidates are taken `step` at a time, or all of a query's."""
        total = len(candidates.cls)
        each = total // queries
        step = step or each
        of_row: list[list[int]] = [[] for _ in range(queries)]
        for index in candidates.order.tolist():
            of_row[index // each].append(index)
        pieces = [(row, found[at : at + step]) for row, found in enumerate(of_row) for at in range(0, each, step)]
        distances = np.empty(total, np.float32)

        def work(worker: int, number: int) -> None:
            row, which = pieces[number]
            distances[which] = measure(self._engines[worker], row, which)

        self.map(len(pieces), work)
        return distances.reshape(queries, each)


def processors(threads: int | None) -> int:
    """How many processors to use: those asked for, or all that this process may run on."""
    if threads is not None:
        return threads
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _piece(query: Features, candidates: StoredTokens) -> int:
    """How many candidates make a piece."""
    patches = candidates.patches_per_entry
    return max(1, int(_CACHE_BYTES // (4 * patches * (query.patches.shape[1] + 1))))


def _inverse_norm(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / L2 norm along the last axis."""
    squares = np.einsum("...d,...d->...", vectors, vectors)
    return np.asarray(1 / np.maximum(np.sqrt(squares), _LEAST), np.float32)
