"""Sweeps: one setting takes several values, the others stay as they are (the paper's tables 4 and 7, figs. 3 and 5)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from fpc_deploy.evaluation.evaluation import Evaluation, Outcome
from fpc_deploy.evaluation.rows import Configuration, DropStrategy
from fpc_deploy.evaluation.similarity import Graphs
from runtime.errors import FpcError

if TYPE_CHECKING:  # it needs torch, which sweeps without exports do not
    from fpc_deploy.evaluation.variants import Variants

SweepName = Literal["keep-rate", "alpha", "neighbours", "prune-at", "drop"]

KEEP_RATES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # paper, table 4
PRUNING_KEEP_RATES = KEEP_RATES[1:]  # at 1.0 nothing is dropped, by whatever strategy
ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NEIGHBOURS = (1, 2, 5, 10, 15, 20, 30)


def sweep_alpha(
    evaluation: Evaluation, graphs: Graphs, base: Configuration, alphas: Sequence[float] = ALPHAS
) -> Iterator[Outcome]:
    """Vary the share of EMD in the distance of M."""
    for alpha in alphas:
        yield evaluation.run(graphs, replace(base, alpha=alpha, label=f"{alpha:g}"))


def sweep_neighbours(
    evaluation: Evaluation, graphs: Graphs, base: Configuration, counts: Sequence[int] = NEIGHBOURS
) -> Iterator[Outcome]:
    """Vary K, the neighbours that rebuild a query."""
    for count in counts:
        yield evaluation.run(graphs, replace(base, neighbours=count, label=str(count)))


def sweep_keep_rate(
    evaluation: Evaluation,
    graphs: Graphs,
    base: Configuration,
    variants: "Variants",
    keep_rates: Sequence[float] = KEEP_RATES,
) -> Iterator[Outcome]:
    """Vary the share of patches that each pruning block keeps; every variant is exported and run as it would be."""
    for keep_rate in keep_rates:
        bundle = variants.bundle(keep_rate, variants.prune_at)
        yield evaluation.run(replace(graphs, bundle=bundle), replace(base, label=f"{keep_rate:g}"))


def sweep_prune_at(
    evaluation: Evaluation,
    graphs: Graphs,
    base: Configuration,
    variants: "Variants",
    places: Sequence[tuple[int, ...]] = (),
) -> Iterator[Outcome]:
    """Vary the blocks that prune; by default the base's, moved up and down as far as the model goes.

    Raises:
        FpcError: the base does not prune.
    """
    schedule = variants.base.manifest.keep_schedule
    if not schedule.blocks:
        raise FpcError(
            f"{variants.base.folder} does not prune: give a bundle that was exported with a keep rate below 1"
        )
    for blocks in places or shifted(schedule.blocks, variants.base.manifest.model.depth - 1):
        bundle = variants.bundle(schedule.keep_rate, blocks)
        yield evaluation.run(replace(graphs, bundle=bundle), replace(base, label=",".join(map(str, blocks))))


def sweep_drop(
    evaluation: Evaluation,
    graphs: Graphs,
    base: Configuration,
    variants: "Variants",
    seed: int,
    keep_rates: Sequence[float] = PRUNING_KEEP_RATES,
) -> Iterator[Outcome]:
    """Vary what is dropped, at each keep rate: attention by its exported graph, the comparisons by the torch model."""
    for keep_rate in keep_rates:
        bundle = variants.bundle(keep_rate, variants.prune_at)
        for drop in get_args(DropStrategy):
            encoder = None if drop == "attention" else variants.torch_encoder(bundle, drop, seed)
            configuration = replace(base, drop=drop, label=f"{keep_rate:g}")
            yield evaluation.run(replace(graphs, bundle=bundle), configuration, encoder)


def shifted(blocks: tuple[int, ...], shared: int) -> list[tuple[int, ...]]:
    """Return `blocks` moved by every number that keeps them within 0..shared - 1, lowest first."""
    first, last = min(blocks), max(blocks)
    return [tuple(block + step for block in blocks) for step in range(-first, shared - last)]
