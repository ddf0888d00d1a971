"""Two reports side by side: how many times as fast the second is, stage by stage, and what else differs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtime.bench.report import STAGES, Report
from runtime.errors import FpcError


@dataclass(frozen=True)
class Line:
    """One figure of both reports.

    Attributes:
        name: of the stage or figure.
        unit: of both values.
        first: in the first report.
        second: in the second.
        better: how many times better the second is: above 1 it is faster, or smaller.
    """

    name: str
    unit: str
    first: float
    second: float
    better: float | None


@dataclass(frozen=True)
class Comparison:
    """Two reports of one batch size.

    Attributes:
        batch: crops at a time.
        lines: stages in their order, then the whole.
    """

    batch: int
    lines: tuple[Line, ...]


def compare(first: Sequence[Report], second: Sequence[Report]) -> list[Comparison]:
    """Compare reports of the batch sizes that both have.

    Raises:
        FpcError: they have no batch size in common.
    """
    ours, theirs = ({report.batch: report for report in reports} for reports in (first, second))
    shared = [batch for batch in ours if batch in theirs]
    if not shared:
        sizes = [", ".join(map(str, reports)) for reports in (ours, theirs)]
        raise FpcError(f"no batch size in common: {sizes[0]} in the first report, {sizes[1]} in the second")
    return [Comparison(batch, tuple(_lines(ours[batch], theirs[batch]))) for batch in shared]


def differences(first: Report, second: Report) -> list[str]:
    """Return a phrase for each condition that differs: such a ratio says more than the code's speed."""
    before, after = _conditions(first), _conditions(second)
    names = [*before, *(name for name in after if name not in before)]
    return [
        f"{name}: {before.get(name, 'none')} against {after.get(name, 'none')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _lines(first: Report, second: Report) -> Iterator[Line]:
    for name in STAGES:
        a, b = first.stages[name].p50_ms, second.stages[name].p50_ms
        yield Line(name, "ms", a, b, _ratio(a, b))
    rates = {"crops per second": "crops_per_s", "the same in run": "run_crops_per_s"}
    for name, field in rates.items():
        a, b = getattr(first, field), getattr(second, field)
        yield Line(name, "1/s", a, b, _ratio(b, a))
    yield Line(
        "cold start", "s", first.cold_start_s, second.cold_start_s, _ratio(first.cold_start_s, second.cold_start_s)
    )
    yield Line(
        "peak memory", "MB", first.peak_rss_mb, second.peak_rss_mb, _ratio(first.peak_rss_mb, second.peak_rss_mb)
    )


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None


def _conditions(report: Report) -> dict[str, object]:
    """What has to be equal for a ratio to speak of the code."""
    conditions: dict[str, object] = {
        f"machine {name}": value for name, value in report.machine.model_dump(mode="json").items() if value
    }
    conditions |= {
        "engine": report.engine,
        "precision": report.precision,
        "threads": report.threads or "the engine's choice",
        "gallery entries": report.gallery_entries,
        "token store": report.tokens,
        "crops": report.crops,
    }
    conditions |= {f"model {name}": value for name, value in report.model.items()}
    conditions |= {f"matching {name}": value for name, value in report.matching.items()}
    return conditions | {f"version of {name}": value for name, value in report.versions.items()}
