"""What is to be run: from the options of the command to configurations."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fpc_deploy.evaluation import sweeps
from fpc_deploy.evaluation.evaluation import Evaluation, Outcome
from fpc_deploy.evaluation.rows import Configuration
from fpc_deploy.evaluation.similarity import Graphs
from fpc_deploy.evaluation.stages import ABLATION, Stages, all_stages
from runtime.bundle import Bundle, SearchBy
from runtime.errors import FpcError, MissingExtraError

log = logging.getLogger(__name__)

MOST_NEIGHBOURS = 10_000
MOST_BLOCKS = 1_000


def base_configuration(
    bundle: Bundle,
    stages: str | None = None,
    alpha: float | None = None,
    neighbours: int | None = None,
    refine: int | None = None,
    search_by: SearchBy | None = None,
    neighbour_temperature: float | None = None,
    passes: int | None = None,
) -> Configuration:
    """Return what `fpc-deploy run` does with this bundle, but for the settings given.

    Raises:
        BundleError: a setting is out of range.
    """
    given = {"alpha": alpha, "neighbours": neighbours, "refine": refine, "search_by": search_by}
    given |= {"neighbour_temperature": neighbour_temperature, "passes": passes}
    matching = bundle.manifest.matching.with_changes(given)
    return Configuration(
        stages=all_stages(bundle) if stages is None else Stages.parse(stages),
        alpha=matching.alpha,
        neighbours=matching.neighbours,
        refine=matching.refine,
        search_by=matching.search_by,
        neighbour_temperature=matching.neighbour_temperature,
        passes=matching.passes,
    )


def ablated(base: Configuration, bundle: Bundle, *, reranked: bool) -> list[Configuration]:
    """Return the configurations of the paper's table 3, as far as the bundle and re-ranking go."""
    chosen = []
    for stages in ABLATION:
        if stages.consolidate and not bundle.has("decoder"):
            log.warning("stages %s are left out: the bundle has no decoder", stages)
        elif reranked and stages.match and not stages.consolidate:
            log.warning("stages %s are left out: re-ranking compares descriptors, of which M makes none", stages)
        else:
            chosen.append(replace(base, stages=stages))
    return chosen


def answerable(chosen: Sequence[Configuration], tokens: str) -> list[Configuration]:
    """Switch M off for a gallery without patches, which has no EMD; what is then the same twice is run once."""
    if tokens == "full":
        return list(chosen)
    if any(one.stages.match for one in chosen):
        log.warning("a gallery of [cls] tokens has no EMD: stage M is off, neighbours are the nearest by cosine")
    return list(dict.fromkeys(replace(one, stages=replace(one.stages, match=False)) for one in chosen))


def swept(
    evaluation: Evaluation,
    graphs: Graphs,
    base: Configuration,
    sweep: sweeps.SweepName,
    values: str,
    checkpoint: Path | None,
    scratch: Path,
    seed: int,
) -> Iterator[Outcome]:
    """Start a sweep; its outcomes come one by one.

    Args:
        evaluation: of the test set.
        graphs: of the bundle.
        base: what the sweep varies.
        sweep: the setting.
        values: of it, as text; "" takes the paper's.
        checkpoint: what the bundle was exported from.
        scratch: folder for variants; the caller removes it.
        seed: of random pruning.

    Raises:
        FpcError: the stage that the setting belongs to is off, values that are none, or no checkpoint to export from.
        MissingExtraError: variants have to be exported and torch is not installed.
    """
    (base,) = answerable([base], evaluation.options.tokens)
    _demand_stage(base.stages, sweep)
    if sweep == "alpha":
        return sweeps.sweep_alpha(evaluation, graphs, base, parse_numbers(values, 0, 1) or sweeps.ALPHAS)
    if sweep == "neighbours":
        counts = parse_whole(values, 1, MOST_NEIGHBOURS)
        return sweeps.sweep_neighbours(evaluation, graphs, base, counts or sweeps.NEIGHBOURS)
    return _swept_exports(evaluation, graphs, base, sweep, values, checkpoint, scratch, seed)


def parse_numbers(text: str, least: float, most: float) -> list[float]:
    """Read numbers separated by commas.

    Raises:
        FpcError: one is no number, or out of range.
    """
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise FpcError(f"--values {text}: give numbers, separated by commas") from None
    if not all(least <= number <= most for number in numbers):
        raise FpcError(f"--values {text}: each must be in {least:g}..{most:g}")
    return numbers


def parse_whole(text: str, least: int, most: int) -> list[int]:
    """Read whole numbers separated by commas; raises as `parse_numbers` does."""
    numbers = parse_numbers(text, least, most)
    if any(number != int(number) for number in numbers):
        raise FpcError(f"--values {text}: give whole numbers")
    return [int(number) for number in numbers]


def _swept_exports(
    evaluation: Evaluation,
    graphs: Graphs,
    base: Configuration,
    sweep: sweeps.SweepName,
    values: str,
    checkpoint: Path | None,
    scratch: Path,
    seed: int,
) -> Iterator[Outcome]:
    """Start a sweep that exports variants of the bundle."""
    if checkpoint is None:
        raise FpcError(f"--sweep {sweep} exports variants: give --checkpoint, what the bundle was exported from")
    parts = [part for part in values.split(";") if part.strip()] if sweep == "prune-at" else []
    places = [tuple(parse_whole(part, 0, MOST_BLOCKS)) for part in parts]
    rates = [] if sweep == "prune-at" else parse_numbers(values, 0, 1)
    try:
        from fpc_deploy.evaluation.variants import Variants
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "export") from error
    variants = Variants(graphs.bundle, checkpoint, scratch / "variants", log.info)
    if sweep == "prune-at":
        return sweeps.sweep_prune_at(evaluation, graphs, base, variants, places)
    if sweep == "keep-rate":
        return sweeps.sweep_keep_rate(evaluation, graphs, base, variants, rates or sweeps.KEEP_RATES)
    return sweeps.sweep_drop(evaluation, graphs, base, variants, seed, rates or sweeps.PRUNING_KEEP_RATES)


def _demand_stage(stages: Stages, sweep: sweeps.SweepName) -> None:
    """Refuse to vary a setting of a stage that is off: every row would be the same."""
    letter = {"alpha": "M", "neighbours": "C"}.get(sweep, "S")
    on = {"S": stages.prune, "M": stages.match, "C": stages.consolidate}
    if not on[letter]:
        raise FpcError(f"--sweep {sweep} varies stage {letter}, which is off (stages: {stages})")
