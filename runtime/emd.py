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
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.encoder import Features
from runtime.engines import Engine, open_engine, open_graph
from runtime.gallery.protocol import StoredTokens

_CACHE_BYTES = 2**20
"""Similarities of one piece; second-level caches have 1 to 2 MB a processor."""
_QUERY_STEPS = 63
"""Steps of a query's coordinate on either side of 0. A processor without VNNI adds two products of bytes in 16 bits,
which 255 * 63 * 2 does not overflow; with 127 steps it would."""
FINE_STEP = 1 / (2 * _QUERY_STEPS)
"""Step of the fine part of a query's common direction, as a share of the coarse one's."""
_LEAST = np.float32(1e-12)  # as torch.nn.functional.normalize, for a vector of zeros


class Emd(Protocol):
    """Distances of B queries to their C candidates."""

    def distances(self, query: Features, candidates: StoredTokens) -> NDArray[np.float32]:
        """Return (B, C) float32; `candidates` are those of the first query, then of the second, and so on."""


@dataclass(frozen=True)
class CodedQuery:
    """One query as `compact_matcher.onnx` takes it.

    Tokens of a model may nearly all point one way, and what tells them apart then is less than a step of a byte. So a
    query is coded as its common direction, in two bytes a coordinate, the share that each patch has in it, exact, and
    what is left, in a step of its own size.

    Attributes:
        codes: (R, M + 3) int8: what is left of its unit patches in the basis, and of its centre; then the common
            direction, coarse, and what the coarse one lacks.
        scale: (1,) float32, step of what is left.
        ratio: (1,) float32, step of the coarse common direction, as a multiple of `scale`.
        share: (1, 1, M + 3) float32, share of the common direction in each patch and in the centre; then 0.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    ratio: NDArray[np.float32]
    share: NDArray[np.float32]

    def inputs(self) -> dict[str, NDArray[np.generic]]:
        """By their names in the graph."""
        return {
            "query_codes": self.codes,
            "query_scale": self.scale,
            "query_ratio": self.ratio,
            "query_share": self.share,
        }


def code_query(unit: NDArray[np.float32], centre: NDArray[np.float32], basis: NDArray[np.float32]) -> CodedQuery:
    """Code (M, D) unit patches and their (D,) centre in a (D, R) basis."""
    coordinates = np.concatenate([unit, centre[None]]) @ basis  # (M + 1, R)
    common = _unit(coordinates[:-1].mean(axis=0))
    share = coordinates @ common
    left = coordinates - share[:, None] * common
    scale = max(float(np.abs(left).max()), float(_LEAST)) / _QUERY_STEPS
    step = max(float(np.abs(common).max()), float(_LEAST)) / _QUERY_STEPS
    coarse = np.rint(common / step)
    fine = np.rint((common / step - coarse) / FINE_STEP)
    codes = np.concatenate([np.rint(left / scale), coarse[None], fine[None]]).astype(np.int8)
    return CodedQuery(
        np.ascontiguousarray(codes.T),
        np.array([scale], np.float32),
        np.array([step / scale], np.float32),
        np.concatenate([share, [0, 0]]).astype(np.float32)[None, None],
    )


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

    Args:
        bundle: where the graph comes from.
        threads: processors to use; None is all.
    """

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        path = bundle.graph_path("compact_matcher")
        self._pool = _Workers([open_engine(path, "onnxruntime", 1) for _ in range(processors(threads))])
        self._by_cls = bundle.manifest.matching.sinkhorn_weights == "cls"

    def distances(self, query: Features, candidates: StoredTokens) -> NDArray[np.float32]:
        """See `Emd.distances`."""
        basis, records = candidates.codec.basis, candidates.records
        if basis is None or records is None:
            raise ValueError("the compact matcher reads galleries of a compact codec")
        unit = query.patches / np.maximum(np.linalg.norm(query.patches, axis=2, keepdims=True), _LEAST)
        centre = _unit(query.cls) if self._by_cls else unit.mean(axis=1)
        coded = [code_query(unit[row], centre[row], basis) for row in range(len(unit))]
        affinity = None
        if self._by_cls:
            theirs = _unit(candidates.cls).reshape(len(unit), -1, unit.shape[2])  # (B, C, D)
            affinity = (theirs @ unit.transpose(0, 2, 1)).reshape(len(records), 1, -1)  # (B * C, 1, M)

        def measure(engine: Engine, row: int, which: Sequence[int]) -> NDArray[np.generic]:
            chosen = [records[index] for index in which]
            given: dict[str, NDArray[np.generic]] = {
                **coded[row].inputs(),
                "candidate_codes": np.stack([record["codes"] for record in chosen]),
                "candidate_scales": np.stack([record["scales"] for record in chosen])[:, :, None],
            }
            if affinity is not None:
                given["query_affinity"] = affinity[which]
            return engine.run(given)["emd"]

        return self._pool.run(len(unit), candidates, _piece(query, candidates), measure)


Measure = Callable[[Engine, int, Sequence[int]], NDArray[np.generic]]
"""Distances of a query, by its row, to some candidates, by their indices."""


class _Workers:
    """One engine a processor, each with one thread; they take pieces of the work until none is left."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._threads = ThreadPoolExecutor(len(engines), "emd")

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
        turn = itertools.count()  # `next` of it is atomic

        def work(engine: Engine) -> None:
            while (number := next(turn)) < len(pieces):
                row, which = pieces[number]
                distances[which] = measure(engine, row, which)

        if len(self._engines) == 1:
            work(self._engines[0])
        else:
            list(self._threads.map(work, self._engines))
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


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _LEAST)
    return unit
