"""`fpc-deploy bench`: how fast a bundle is on this machine, and how fast it could be."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpc_deploy.commands.options import whole_numbers
from runtime.errors import FpcError

if TYPE_CHECKING:
    from rich.console import Console

    from runtime.bench.compare import Comparison
    from runtime.bench.report import Report

log = logging.getLogger(__name__)


def bench(
    bundle: Annotated[Path | None, typer.Option(help="Bundle made by `fpc-deploy export`.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="Gallery to search; default: one of made-up people.")] = None,
    gallery_size: Annotated[int | None, typer.Option(help="Entries of the made-up gallery (1000).")] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Token store of the made-up gallery: float16, int8, svd-R or cls.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Crops at a time; several sizes give a report each.")] = "1,8",
    engine: Annotated[str, typer.Option(help="Inference engine.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one run of the engine.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of crops to identify; default: rendered ones.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Batches to measure, in place of --seconds.")] = None,
    seconds: Annotated[float, typer.Option(help="Time to measure each batch size for.")] = 10.0,
    against: Annotated[
        Path | None, typer.Option(help="Bundle of another precision: say which of the two encodes faster here.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two such files: print ratios and measure nothing.")
    ] = None,
) -> None:
    """Time every stage of a bundle beside its floor, or compare two reports."""
    from rich.console import Console

    console = Console()
    if compare is not None:
        if bundle is not None:
            raise FpcError("--compare reads two reports and measures nothing: leave --bundle out")
        _compare(console, *compare)
        return
    if bundle is None:
        raise FpcError("nothing to measure: give --bundle BUNDLE, or --compare A.json B.json")
    if gallery is not None and (gallery_size is not None or tokens is not None):
        raise FpcError("--gallery is searched as it is: --gallery-size and --tokens are for a made-up gallery")
    from runtime.bench.measure import GALLERY_SIZE, TOKENS, BenchOptions, measure
    from runtime.bench.report import write_reports
    from runtime.bundle import Bundle
    from runtime.files import check_output
    from runtime.speed import compare_speed, speed_here, verdict_on_speed

    if json_file:
        check_output(json_file)
    opened, other = Bundle.open(bundle), None if against is None else Bundle.open(against)
    options = BenchOptions(
        gallery=gallery,
        gallery_size=GALLERY_SIZE if gallery_size is None else gallery_size,
        tokens=tokens or TOKENS,
        batches=whole_numbers("--batch", batch),
        engine=engine,
        threads=threads,
        images=images,
        repeats=repeats,
        seconds=seconds,
    )
    reports = measure(opened, options, progress=log.info)
    _show(console, reports)
    speeds = (
        speed_here(opened, engine, threads) if other is None else compare_speed(other, opened, engine, threads=threads)
    )
    if speeds is not None:
        console.print(verdict_on_speed(*speeds), highlight=False, soft_wrap=True)
    if json_file is not None:
        write_reports(json_file, reports)


def _show(console: "Console", reports: "Sequence[Report]") -> None:
    from rich.table import Table

    first = reports[0]
    console.print(f"{first.machine}", highlight=False, soft_wrap=True)
    console.print(
        f"{first.engine}, {first.precision}, {first.threads or 'its own choice of'} threads; "
        f"{first.gallery_entries} gallery entries ({first.tokens} tokens); {first.crops}",
        highlight=False,
        soft_wrap=True,
    )
    rates = ", ".join(f"{name.replace('_', ' ')} {rate:.1f}" for name, rate in first.rates.items())
    console.print(f"best seen here: {rates.replace(' per s', '/s')}", highlight=False, soft_wrap=True)
    for report in reports:
        table = Table(title=f"batch {report.batch}: ms for a crop", title_justify="left")
        table.add_column("stage")
        for name in ("p50", "p95", "p99", "floor", "p50 / floor"):
            table.add_column(name, justify="right")
        for name, stage in report.stages.items():
            times = (stage.p50_ms, stage.p95_ms, stage.p99_ms, stage.floor_ms)
            table.add_row(name, *(_number(value) for value in times), _number(stage.ratio), end_section=name == "rank")
        console.print(table)
        console.print(
            f"{report.crops_per_s:.1f} crops a second, first crop after {report.cold_start_s:.2f} s, "
            f"{report.peak_rss_mb:.0f} MB resident at most",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"run, whose stages work side by side: {first.run_crops_per_s:.1f} crops a second", highlight=False)
    console.print(
        "floor: products at the best rate seen, or reading at the best bandwidth, whichever takes longer",
        soft_wrap=True,
    )
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)


def _compare(console: "Console", first: Path, second: Path) -> None:
    from runtime.bench.compare import compare, differences
    from runtime.bench.report import read_reports

    before, after = read_reports(first), read_reports(second)
    for comparison in compare(before, after):
        console.print(_ratios(comparison, first, second))
    for phrase in differences(before[0], after[0]):
        console.print(f"differs: {phrase}", highlight=False, soft_wrap=True, markup=False)


def _ratios(comparison: "Comparison", first: Path, second: Path) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"batch {comparison.batch}: above 1 the second is better", title_justify="left")
    table.add_column("")
    for name in (first.name, second.name, "ratio"):
        table.add_column(Text(name), justify="right")
    for line in comparison.lines:
        values = (f"{_number(value)} {line.unit}" for value in (line.first, line.second))
        table.add_row(line.name, *values, _number(line.better), end_section=line.name == "total")
    return table


def _number(value: float | None) -> str:
    """Three digits that count: 0.0123, 1.23, 123."""
    if value is None:
        return "?"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
