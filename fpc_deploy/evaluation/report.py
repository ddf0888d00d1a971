"""Results as a table, as JSON and as a dump that anyone can score again."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from fpc_deploy.evaluation.evaluation import Outcome
from fpc_deploy.evaluation.rows import REBUILDING, Row
from fpc_deploy.evaluation.strangers import Separation
from runtime.files import whole_file


def make_table(rows: Sequence[Row], title: str) -> Table:
    """Lay out rows for the terminal, with a column for each setting that varies."""
    varied = ["stages", *(name for name, values in _values(rows).items() if len(values) > 1 and name != "stages")]
    table = Table(title=Text(title), title_justify="left")
    for name in varied:
        table.add_column(name, no_wrap=True)
    for name in ("mAP", "rank 1", "rank 5", "rank 10", "GMACs"):
        table.add_column(name, justify="right")
    for row in rows:
        setting, scores = _settings(row), row.scores
        percents = [f"{value:.1f}" for value in (scores.mean_ap, scores.rank1, scores.rank5, scores.rank10)]
        table.add_row(*(setting[name] for name in varied), *percents, f"{row.multiply_adds_g:.3g}")
    return table


def describe_shared(rows: Sequence[Row]) -> str:
    """Name the settings that all rows which read them share: `keep rate 0.8, alpha 0.4, K 10`."""
    found = _values(rows)
    return ", ".join(f"{name} {values[0]}" for name, values in found.items() if len(values) == 1 and name != "stages")


def _values(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Values that each setting takes, without rows that do not read it."""
    settings = [_settings(row) for row in rows]
    return {name: list(dict.fromkeys(one[name] for one in settings if one[name] != "-")) for name in settings[0]}


def _settings(row: Row) -> dict[str, str]:
    """Settings of a row as text; "-" where the stage that reads one is off."""
    configuration, stages = row.configuration, row.configuration.stages
    return {
        "stages": str(stages),
        "keep rate": f"{row.keep_rate:g}" if stages.prune else "-",
        "pruned at": ",".join(map(str, row.pruned_at)) if stages.prune and row.pruned_at else "-",
        "drop": configuration.drop if stages.prune else "-",
        "alpha": f"{configuration.alpha:g}" if stages.match else "-",
        "K": str(configuration.neighbours) if stages.consolidate else "-",
        "re-ranking": str(row.reranking or "-"),
        **{name.replace("_", " "): str(configuration.unpublished().get(name, "-")) for name in REBUILDING},
    }


def write_json(path: Path, dataset: str, rows: Sequence[Row], separations: Sequence[Separation] = ()) -> None:
    """Write `{"dataset", "rows": [...]}`, and `"strangers": [...]` where they were measured.

    Raises:
        FpcError: the file cannot be written.
    """
    content: dict[str, object] = {"dataset": dataset, "rows": [row.as_json() for row in rows]}
    if separations:
        content["strangers"] = [one.as_json() for one in separations]
    text = json.dumps(content, indent=2) + "\n"
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_dump(path: Path, outcome: Outcome) -> None:
    """Write the similarity of an outcome and the labels of both sides, for anyone to compute the metrics anew.

    Identities and cameras are int64 where all of them are numbers (`c3` is 3), else text.

    Raises:
        FpcError: the file cannot be written.
    """
    query_id, gallery_id = _as_numbers(outcome.query.identity, outcome.gallery.identity)
    query_camera, gallery_camera = _as_numbers(outcome.query.camera, outcome.gallery.camera)
    with whole_file(path) as part, part.open("wb") as file:  # given a name, numpy would add .npz to it
        np.savez(
            file,
            similarity=outcome.similarity,
            query_id=query_id,
            query_camera=query_camera,
            gallery_id=gallery_id,
            gallery_camera=gallery_camera,
        )


def _as_numbers(query: NDArray[np.str_], gallery: NDArray[np.str_]) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Turn the labels of both sides into numbers if that keeps all that differ apart."""
    labels = np.unique(np.concatenate([query, gallery]))
    digits = [label.removeprefix("c") for label in labels.tolist()]
    if not all(one.isascii() and one.isdigit() and len(one) < 19 for one in digits):
        return query, gallery
    if len({int(one) for one in digits}) < len(labels):
        return query, gallery
    return tuple(np.array([int(one.removeprefix("c")) for one in side], np.int64) for side in (query, gallery))  # type: ignore[return-value]
