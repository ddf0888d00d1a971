"""Results as a picture: bars for configurations side by side, lines for a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fpc_deploy.evaluation.rows import Row
from runtime.errors import FpcError, MissingExtraError
from runtime.files import whole_file

_DRAWN = (("mAP", "o", "-"), ("rank1", "s", "--"))  # what is drawn, its mark and its line
_NAMES = {"mAP": "mAP", "rank1": "rank 1"}


def load_matplotlib() -> Any:
    """Import matplotlib, drawing to files only.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import matplotlib
        from matplotlib import figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    matplotlib.use("agg")
    return figure


def draw(path: Path, rows: Sequence[Row], dataset: str, sweep: str | None) -> None:
    """Draw mAP, rank 1 and multiply-adds of rows into a picture; its format follows from the file's ending.

    Args:
        path: of the picture.
        rows: in the order they were run.
        dataset: name for the title.
        sweep: name of the setting that was varied; None draws bars.

    Raises:
        MissingExtraError: matplotlib is not installed.
        FpcError: the file cannot be written, or its ending is no known format.
    """
    figure = load_matplotlib().Figure(figsize=(8, 4.5), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    labels = list(dict.fromkeys(row.configuration.label or str(row.configuration.stages) for row in rows))
    if sweep is None:
        _draw_bars(axes, rows, labels)
    else:
        _draw_lines(axes, rows, labels)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("keep rate" if sweep == "drop" else sweep or "stages")
    axes.set_ylabel("percent")
    axes.set_title(dataset)
    _draw_cost(axes.twinx(), rows, labels)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    try:
        with whole_file(path) as part:
            figure.savefig(part)
    except ValueError as error:  # an ending that matplotlib does not know
        raise FpcError(f"{path} cannot be drawn: {str(error).splitlines()[0]}") from error


def _draw_bars(axes: Any, rows: Sequence[Row], labels: Sequence[str]) -> None:
    for number, (name, _, _) in enumerate(_DRAWN):
        places = [labels.index(row.configuration.label or str(row.configuration.stages)) for row in rows]
        values = [float(str(row.as_json()[name])) for row in rows]
        bars = axes.bar([place + 0.36 * (number - 0.5) for place in places], values, 0.34, label=_NAMES[name])
        axes.bar_label(bars, fmt="%.1f", fontsize="small")


def _draw_lines(axes: Any, rows: Sequence[Row], labels: Sequence[str]) -> None:
    drops = list(dict.fromkeys(row.configuration.drop for row in rows))
    for colour, drop in enumerate(drops):
        chosen = [row for row in rows if row.configuration.drop == drop]
        places = [labels.index(row.configuration.label) for row in chosen]
        for number, (name, mark, line) in enumerate(_DRAWN):
            values = [float(str(row.as_json()[name])) for row in chosen]
            label = f"{_NAMES[name]}, {drop}" if len(drops) > 1 else _NAMES[name]
            shade = f"C{colour if len(drops) > 1 else number}"
            axes.plot(places, values, line, marker=mark, color=shade, label=label)
    axes.grid(alpha=0.3)


def _draw_cost(axes: Any, rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Draw multiply-adds against an axis of their own, from 0."""
    cost = {row.configuration.label or str(row.configuration.stages): row.multiply_adds_g for row in rows}
    axes.plot(
        range(len(labels)), [cost[label] for label in labels], ":", marker=".", color="grey", label="G multiply-adds"
    )
    axes.set_ylim(0, 1.15 * max(cost.values()))
    axes.set_ylabel("G multiply-adds of the query encoder")
