"""The exported matcher against POT: Sinkhorn at the same regularisation, and the exact Earth Mover's Distance."""

from dataclasses import dataclass

import numpy as np
import ot
import pytest
from numpy.typing import NDArray

from export.graphs import SINKHORN_REGULARISATION
from runtime.bundle import Bundle
from runtime.engines import open_engine

Case = dict[str, NDArray[np.float32]]
QUERIES, CANDIDATES, PATCHES = 3, 20, 60
CONVERGED = 20_000


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=-1, keepdims=True))


def draw_case(kept: int, width: int, shared: float) -> Case:
    """Tokens of a few themes; a direction that all of them share keeps every weight above 0, as in most networks."""
    rng = np.random.default_rng(11)
    themes = rng.normal(size=(12, width)) + shared * rng.normal(size=width)

    def draw(*shape: int) -> NDArray[np.float32]:
        mixed = rng.dirichlet(np.full(12, 0.3), shape) @ themes + 0.15 * rng.normal(size=(*shape, width))
        return (3 * mixed).astype(np.float32)

    return {
        "query_cls": draw(QUERIES),
        "query_patches": draw(QUERIES, kept),
        "candidate_cls": draw(QUERIES, CANDIDATES),
        "candidate_patches": draw(QUERIES, CANDIDATES, PATCHES),
    }


def problem(case: Case, row: int, column: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Demand (M,), supply (N,) and cost (M, N) of one pair, from the paper's definition, patches of weight 0 left out.

    They carry nothing, and POT's Sinkhorn divides by them.
    """
    query, candidate = unit(case["query_patches"][row]), unit(case["candidate_patches"][row, column])
    supply = np.maximum(candidate @ unit(case["query_cls"][row]), 0)
    demand = np.maximum(query @ unit(case["candidate_cls"][row, column]), 0)
    cost = (1 - query @ candidate.T)[demand > 0][:, supply > 0]
    return demand[demand > 0] / demand.sum(), supply[supply > 0] / supply.sum(), cost


def by_sinkhorn(case: Case, steps: int) -> NDArray[np.float64]:
    """(B, C) cost of POT's Sinkhorn plan; a step scales the supply first, then the demand."""
    answer = np.empty((QUERIES, CANDIDATES))
    for pair in np.ndindex(answer.shape):
        demand, supply, cost = problem(case, *pair)
        stop = 0 if steps < CONVERGED else 1e-12
        plan = ot.sinkhorn(demand, supply, cost, SINKHORN_REGULARISATION, numItermax=steps, stopThr=stop, warn=False)
        answer[pair] = (plan * cost).sum()
    return answer


def exactly(case: Case) -> NDArray[np.float64]:
    """(B, C) distances by POT's network simplex."""
    answer = np.empty((QUERIES, CANDIDATES))
    for pair in np.ndindex(answer.shape):
        answer[pair] = ot.emd2(*problem(case, *pair))
    return answer


def worst(found: NDArray[np.generic], expected: NDArray[np.float64]) -> tuple[float, str]:
    """Largest error, and whose it is."""
    error = np.abs(found.astype(np.float64) - expected)
    query, candidate = np.unravel_index(int(error.argmax()), error.shape)
    return float(error.max()), f"query {query}, candidate {candidate} is off by {error.max():.2e}"


@dataclass(frozen=True)
class Kind:
    """How far five steps may be from the limit and from the exact distance, and how many of the nearest 5 agree.

    The bounds are what was measured, rounded up; the distances themselves are 0.20 to 0.26 and 0.39 to 0.64.
    """

    shared: float
    from_limit: float
    from_exact: float
    same_nearest: int


KINDS = {
    "all-weights-above-0": Kind(0.5, 0.006, 0.03, 4),
    "some-weights-0": Kind(0.0, 0.07, 0.06, 3),  # patches of weight 0 take part in the first step alone
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def case(kind: Kind, tiny_bundle: Bundle) -> Case:
    manifest = tiny_bundle.manifest
    return draw_case(manifest.keep_schedule.kept[-1], manifest.model.embed_dim, kind.shared)


@pytest.fixture(scope="module")
def shipped(tiny_bundle: Bundle, case: Case) -> NDArray[np.float64]:
    """(B, C) answer of the exported matcher."""
    answer = open_engine(tiny_bundle.graph_path("matcher"), threads=1).run(case)["emd"]
    return answer.astype(np.float64)


def test_each_step_is_one_of_sinkhorns(tiny_bundle: Bundle) -> None:
    """As many steps of POT give the very same distance. (With weights of 0 the first step differs, not the limit.)"""
    manifest = tiny_bundle.manifest
    case = draw_case(
        manifest.keep_schedule.kept[-1], manifest.model.embed_dim, shared=KINDS["all-weights-above-0"].shared
    )
    found = open_engine(tiny_bundle.graph_path("matcher"), threads=1).run(case)["emd"]
    steps = manifest.matching.sinkhorn_iterations

    error, where = worst(found, by_sinkhorn(case, steps))
    assert error < 2e-6, where
    assert worst(found, by_sinkhorn(case, steps + 1))[0] > 1e-4  # else this case could not tell the steps apart


def test_near_the_converged_sinkhorn(kind: Kind, case: Case, shipped: NDArray[np.float64]) -> None:
    error, where = worst(shipped, by_sinkhorn(case, CONVERGED))
    assert error < kind.from_limit, where


def test_near_the_exact_distance(kind: Kind, case: Case, shipped: NDArray[np.float64]) -> None:
    error, where = worst(shipped, exactly(case))
    assert error < kind.from_exact, where


def test_the_same_candidates_come_first(kind: Kind, case: Case, shipped: NDArray[np.float64]) -> None:
    exact = exactly(case)
    for row in range(QUERIES):
        shared = set(shipped[row].argsort()[:5]) & set(exact[row].argsort()[:5])
        assert len(shared) >= kind.same_nearest, f"query {row}: {len(shared)} of 5"


def test_smoothing_costs_no_less_than_the_best_plan(case: Case) -> None:
    """A check of the references against each other: Sinkhorn is above the exact distance, within its entropy bound."""
    excess = by_sinkhorn(case, CONVERGED) - exactly(case)
    assert excess.min() > -1e-9
    assert 1e-3 < excess.max() < SINKHORN_REGULARISATION * np.log(PATCHES**2)
