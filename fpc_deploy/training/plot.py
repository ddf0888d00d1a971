"""The picture of a run: loss and mAP over the epochs of both phases."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runtime.files import whole_file


def plot_history(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss (left axis) and mAP (right axis) to a PNG file; phase 2 follows phase 1."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")  # no pyplot: no window, no global state
    FigureCanvasAgg(figure)
    losses = figure.add_subplot()
    accuracy = losses.twinx()
    for phase, colour in (("encoder", "tab:blue"), ("decoder", "tab:orange")):
        lines = [(place, line) for place, line in enumerate(history, 1) if line["phase"] == phase]
        if not lines:
            continue
        losses.plot([place for place, _ in lines], [line["loss"] for _, line in lines], color=colour, label=phase)
        scored = [(place, line["mAP"]) for place, line in lines if "mAP" in line]
        if scored:
            accuracy.plot(*zip(*scored, strict=True), color=colour, linestyle="--", marker="o")
    losses.set(xlabel="epoch", ylabel="loss (solid)")
    losses.set_ylim(bottom=0)
    accuracy.set(ylabel="mAP in percent (dashed)", ylim=(0, 100))
    if losses.has_data():
        losses.legend(loc="upper center")
    with whole_file(path) as part:
        figure.savefig(part, dpi=120)
