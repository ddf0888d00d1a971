"""`fpc-deploy eval`: how well a bundle finds people in a data set."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpc_deploy.commands.options import PassesOption, SearchByOption, TemperatureOption
from runtime.errors import FpcError

if TYPE_CHECKING:
    from fpc_deploy.evaluation.crops import Progress
    from fpc_deploy.evaluation.evaluation import GallerySize
    from fpc_deploy.evaluation.rows import Row


class Sweep(str, Enum):
    """Settings that can be varied."""

    keep_rate = "keep-rate"
    alpha = "alpha"
    neighbours = "neighbours"
    prune_at = "prune-at"
    drop = "drop"


class TokenChoice(str, Enum):
    """What the gallery keeps of each image."""

    full = "full"
    cls = "cls"


def evaluate(
    dataset: Annotated[Path, typer.Argument(help="Folder of a data set, as published.")],
    bundle: Annotated[Path, typer.Option(help="Bundle made by `fpc-deploy export`.")],
    stages: Annotated[
        str | None, typer.Option(help="Letters of S, M and C, or none; default: all that the bundle has.")
    ] = None,
    ablation: Annotated[bool, typer.Option("--ablation", help="Switch the stages on one after the other.")] = False,
    sweep: Annotated[Sweep | None, typer.Option(help="Vary one setting.")] = None,
    values: Annotated[
        str, typer.Option(help="Values of --sweep: 0.9,0.8 or, of prune-at, 3,6,9;2,5,8; default: the paper's.")
    ] = "",
    checkpoint: Annotated[
        Path | None, typer.Option(help="What BUNDLE was exported from; for sweeps that export variants of it.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(min=0, max=1, help="Share of EMD; default: the bundle's.")] = None,
    neighbours: Annotated[int | None, typer.Option(min=1, help="K; default: the bundle's.")] = None,
    refine: Annotated[int | None, typer.Option(min=1, help="Candidates of M; default: the bundle's.")] = None,
    search_by: SearchByOption = None,
    neighbour_temperature: TemperatureOption = None,
    passes: PassesOption = None,
    tokens: Annotated[TokenChoice, typer.Option(help="cls: a gallery without patches, M off.")] = TokenChoice.full,
    rerank: Annotated[bool, typer.Option("--rerank", help="Re-rank by k-reciprocal neighbours.")] = False,
    rerank_settings: Annotated[
        str | None, typer.Option(help="authors (50,15,0.3; default), paper (20,6,0.3), or k1,k2,lambda.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="What the protocol leaves out may not be a neighbour either.")
    ] = False,
    strangers: Annotated[
        bool, typer.Option("--strangers", help="Also tell people from strangers: thresholds for `run`.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of random pruning in --sweep drop.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images of one run of an encoder.")] = 16,
    engine: Annotated[str, typer.Option(help="Inference engine.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one run of the engine.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the rows here (.png, .svg, .pdf).")] = None,
    dump: Annotated[Path | None, typer.Option(help="Write similarity and labels of the last row here (.npz).")] = None,
) -> None:
    """Measure mAP and CMC of BUNDLE on DATASET, through the graphs and the code that `run` uses."""
    from rich.console import Console

    from fpc_deploy.evaluation.datasets import read_test_set
    from fpc_deploy.evaluation.evaluation import Evaluation, Options
    from fpc_deploy.evaluation.plan import ablated, answerable, base_configuration, swept
    from fpc_deploy.evaluation.plots import draw
    from fpc_deploy.evaluation.report import write_dump, write_json
    from fpc_deploy.evaluation.reranking import Reranking
    from fpc_deploy.evaluation.similarity import Graphs
    from fpc_deploy.evaluation.strangers import make_table
    from runtime.bundle import Bundle

    if ablation and (sweep or stages):
        raise FpcError("--ablation switches stages by itself: give it without --sweep and --stages")
    if (values or checkpoint) and not sweep:
        raise FpcError("--values and --checkpoint say what --sweep varies: give it, too")
    if rerank_settings and not rerank:
        raise FpcError("--rerank-settings says how --rerank works: give it, too")
    if strangers and (sweep or rerank):
        raise FpcError("--strangers measures what `run` answers: give it without --sweep and --rerank")
    _check_outputs(json_file, plot, dump)
    options = Options(batch, tokens.value, strict, Reranking.parse(rerank_settings or "authors") if rerank else None)
    opened, test_set = Bundle.open(bundle), read_test_set(dataset)
    graphs = Graphs(opened, engine, threads)
    base = base_configuration(
        opened, stages, alpha, neighbours, refine, search_by.value if search_by else None, neighbour_temperature, passes
    )
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="fpc-eval-") as scratch,
        _bars() as progress,
        Evaluation(test_set, Path(scratch), options, progress) as evaluation,
    ):
        if sweep:
            outcomes = swept(evaluation, graphs, base, sweep.value, values, checkpoint, Path(scratch), seed)
        else:
            chosen = ablated(base, opened, reranked=rerank) if ablation else [base]
            outcomes = (evaluation.run(graphs, one) for one in answerable(chosen, options.tokens))
        for last in outcomes:
            rows.append(last.row)
        separations = evaluation.separate(graphs, *answerable([base], options.tokens)) if strangers else []
        size = evaluation.gallery_size()
    _print(rows, size, _title(test_set.name, sweep, tokens, strict=strict), sweep)
    if separations:
        Console(highlight=False).print(make_table(separations))
    if json_file:
        write_json(json_file, test_set.name, rows, separations)
    if dump:
        write_dump(dump, last)
    if plot:
        draw(plot, rows, test_set.name, sweep.value if sweep else None)


def _check_outputs(json_file: Path | None, plot: Path | None, dump: Path | None) -> None:
    """Find out before hours of work whether the results can be written."""
    from fpc_deploy.evaluation.plots import load_matplotlib
    from runtime.files import check_output

    for path in filter(None, (json_file, plot, dump)):
        check_output(path)
    if plot:
        load_matplotlib()


def _title(dataset: str, sweep: Sweep | None, tokens: TokenChoice, *, strict: bool) -> str:
    parts = [dataset]
    if sweep:
        parts.append(f"{sweep.value} varied")
    if tokens is TokenChoice.cls:
        parts.append("gallery of [cls] tokens")
    if strict:
        parts.append("strict")
    return ", ".join(parts)


def _print(rows: list["Row"], size: "GallerySize", title: str, sweep: Sweep | None) -> None:
    from rich.console import Console

    from fpc_deploy.evaluation.report import describe_shared, make_table

    console, scores = Console(highlight=False), rows[-1].scores
    console.print(make_table(rows, title))
    if shared := describe_shared(rows):
        console.print(shared)
    console.print(f"{scores.queries} queries counted, {scores.without_match} not: no other camera saw their person")
    console.print(
        f"gallery: {size.entries} entries, {size.bytes / 1e6:.1f} MB, {size.bytes / size.entries / 1e3:.1f} kB an entry"
    )
    if sweep is Sweep.drop:
        console.print("attention is the exported graph; random and inverse pruned in torch, as they are never exported")


@contextmanager
def _bars() -> Iterator["Progress"]:
    """Progress bars on standard error, one for each thing that is being done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, int] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]

        yield show
