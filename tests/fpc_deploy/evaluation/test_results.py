"""Rows as JSON, dumps, tables, pictures, and what a configuration costs."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from calibration.protocol import Labels, Relations, score_ranking
from fpc_deploy.evaluation.evaluation import Evaluation, Outcome
from fpc_deploy.evaluation.plan import base_configuration
from fpc_deploy.evaluation.plots import draw
from fpc_deploy.evaluation.report import describe_shared, make_table, write_dump, write_json
from fpc_deploy.evaluation.rows import multiply_adds_g
from fpc_deploy.evaluation.similarity import Graphs
from runtime.bundle import Manifest
from runtime.errors import FpcError

KEYS = ["S", "M", "C", "keep_rate", "alpha", "neighbours", "drop", "rerank"]
KEYS += ["mAP", "rank1", "rank5", "rank10", "queries", "multiply_adds_g"]


@pytest.fixture(scope="module")
def outcomes(evaluation: Evaluation, graphs: Graphs) -> list[Outcome]:
    return [evaluation.run(graphs, base_configuration(graphs.bundle, one)) for one in ("none", "S", "SM", "SMC")]


def test_json_holds_what_is_promised(outcomes: list[Outcome], tmp_path: Path) -> None:
    write_json(tmp_path / "rows.json", "striped", [one.row for one in outcomes])
    found = json.loads((tmp_path / "rows.json").read_text())

    assert list(found) == ["dataset", "rows"]
    assert found["dataset"] == "striped"
    assert [list(row) for row in found["rows"]] == [KEYS] * 4
    assert [(row["S"], row["M"], row["C"]) for row in found["rows"]] == [
        (False, False, False), (True, False, False), (True, True, False), (True, True, True)
    ]  # fmt: skip
    assert [row["keep_rate"] for row in found["rows"]] == [1, 0.8, 0.8, 0.8]
    assert [row["alpha"] for row in found["rows"]] == [0, 0, 0.4, 0.4]
    assert [row["neighbours"] for row in found["rows"]] == [0, 0, 0, 10]
    assert {row["queries"] for row in found["rows"]} == {24}
    assert {row["rerank"] for row in found["rows"]} == {False}
    assert all(0 < row["mAP"] <= 100 for row in found["rows"])


def test_the_metrics_follow_from_the_dump(outcomes: list[Outcome], tmp_path: Path) -> None:
    write_dump(tmp_path / "dump.npz", outcomes[-1])
    with np.load(tmp_path / "dump.npz") as dump:
        names = ["similarity", "query_id", "query_camera", "gallery_id", "gallery_camera"]
        assert sorted(dump.files) == sorted(names)
        similarity, *labels = (dump[name] for name in names)
    query_id, query_camera, gallery_id, gallery_camera = labels
    assert [one.dtype for one in labels] == [np.int64] * 4

    same = query_id[:, None] == gallery_id
    seen = query_camera[:, None] == gallery_camera
    scores = score_ranking(similarity, Relations(same & ~seen, same & seen))
    assert scores == outcomes[-1].row.scores


def test_labels_that_are_no_numbers_stay_text(outcomes: list[Outcome], tmp_path: Path) -> None:
    """So do numbers that would become one: 007 and 7 are two names."""
    query, gallery = Labels.of([("007", "queries")]), Labels.of([("7", "gallery"), ("ann", "gallery")])
    write_dump(tmp_path / "dump.npz", replace(outcomes[0], query=query, gallery=gallery))
    with np.load(tmp_path / "dump.npz", allow_pickle=False) as dump:
        assert dump["query_id"].tolist() == ["007"]
        assert dump["gallery_id"].tolist() == ["7", "ann"]
        assert dump["query_camera"].tolist() == ["queries"]


def test_the_table_shows_what_varies_and_names_the_rest(outcomes: list[Outcome]) -> None:
    rows = [one.row for one in outcomes]
    screen = io.StringIO()
    Console(file=screen, width=80).print(make_table(rows, "striped"))
    text = screen.getvalue()
    assert describe_shared(rows) == "keep rate 0.8, pruned at 1,2, drop attention, alpha 0.4, K 10"
    assert "S+M+C" in text
    assert f"{rows[-1].scores.mean_ap:.1f}" in text
    assert "…" not in text  # it fits a terminal of 80 columns


@pytest.mark.parametrize("sweep", [None, "drop", "keep-rate"])
def test_pictures(outcomes: list[Outcome], tmp_path: Path, sweep: str | None) -> None:
    rows = [one.row for one in outcomes]
    if sweep:
        rows = [replace(one, configuration=replace(one.configuration, label=str(n))) for n, one in enumerate(rows)]
    draw(tmp_path / "rows.svg", rows, "striped", sweep)
    drawn = (tmp_path / "rows.svg").read_text()
    assert "<svg" in drawn
    assert drawn.count("<path") > 20


def test_a_picture_of_an_unknown_format(outcomes: list[Outcome], tmp_path: Path) -> None:
    with pytest.raises(FpcError, match="cannot be drawn"):
        draw(tmp_path / "rows.xyz", [outcomes[0].row], "striped", None)


def as_counted_in_the_paper(manifest: Manifest, kept: dict[int, int]) -> float:
    """Multiply-adds in G from the sizes alone: patch embedding, and four linear layers and the MLP a block."""
    model = manifest.model
    width, mlp, alive = model.embed_dim, 4 * model.embed_dim, model.patches
    total = alive * width * 3 * model.patch_size**2
    for block in range(model.depth):
        total += (1 + alive) * 4 * width * width
        alive = kept.get(block, alive)
        total += (1 + alive) * 2 * width * mlp
    return total / 1e9


def test_multiply_adds(graphs: Graphs, outcomes: list[Outcome]) -> None:
    manifest = graphs.bundle.manifest
    schedule = dict(zip(manifest.keep_schedule.blocks, manifest.keep_schedule.kept, strict=True))
    dense, sparse = as_counted_in_the_paper(manifest, {}), as_counted_in_the_paper(manifest, schedule)
    assert multiply_adds_g(manifest, pruned=False) == pytest.approx(dense, rel=1e-9)
    assert multiply_adds_g(manifest, pruned=True) == pytest.approx(sparse, rel=1e-9)
    assert [one.row.multiply_adds_g for one in outcomes] == pytest.approx([dense, sparse, sparse, sparse])
