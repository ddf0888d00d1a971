"""People and strangers: against torchmetrics, and against galleries that really lack the person."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_auroc
from typer.testing import CliRunner

from calibration.protocol import Relations
from fpc_deploy.cli import app
from fpc_deploy.evaluation.datasets import TestSet
from fpc_deploy.evaluation.evaluation import Evaluation
from fpc_deploy.evaluation.plan import base_configuration
from fpc_deploy.evaluation.similarity import Answer, Graphs
from fpc_deploy.evaluation.strangers import separate
from runtime.bundle import Bundle
from runtime.gallery import Gallery
from runtime.images import read_image, resize
from runtime.indexing import build_gallery
from runtime.pipeline import Pipeline

QUERIES, IMAGES, PEOPLE = 200, 60, 20


def made_up() -> tuple[Answer, Answer, NDArray[np.float32], Relations, NDArray[np.str_]]:
    rng = np.random.default_rng(0)
    who, mine = np.arange(IMAGES) % PEOPLE, np.arange(QUERIES) % PEOPLE
    same, seen = mine[:, None] == who, np.arange(IMAGES) < PEOPLE
    own = (0.2 * same + rng.random((QUERIES, IMAGES))).astype(np.float32)
    known = Answer((own - 0.1 * rng.random(own.shape)).astype(np.float32), None, rng.integers(0, IMAGES, (QUERIES, 4)))
    strange = Answer(own, None, rng.integers(0, IMAGES, (QUERIES, 4)))
    return known, strange, own, Relations(same & ~seen, same & seen), who.astype(np.str_)


def test_separation_against_torchmetrics() -> None:
    known, strange, own, relations, identities = made_up()
    similarity, _ = separate(known, strange, own, relations, identities)

    people = np.where(relations.left_out, -9, known.similarity)
    right = np.take_along_axis(relations.matches, people.argmax(axis=1)[:, None], axis=1)[:, 0]
    scores = people.max(axis=1)
    strangers = np.where(relations.left_out | relations.matches, -9, strange.similarity).max(axis=1)
    expected = binary_auroc(
        torch.from_numpy(np.concatenate([scores[right], strangers]) / 2),  # above 1 it would be put through a sigmoid
        torch.from_numpy(np.arange(right.sum() + QUERIES) < right.sum()).long(),
    )
    assert 0.5 < similarity.auroc < 1
    assert similarity.auroc == pytest.approx(float(expected), abs=1e-6)
    for row, share in zip(similarity.thresholds, (1, 5, 10, 20), strict=True):
        assert row.accepted_strangers == share  # 200 different scores: every share is met
        assert row.accepted_strangers == 100 * np.mean(strangers >= row.value)
        assert row.named_rightly == pytest.approx(100 * np.mean(right & (scores >= row.value)))
        assert row.named_wrongly == pytest.approx(100 * np.mean(~right & (scores >= row.value)))


def test_a_person_who_is_alone_in_view_scores_by_their_own_images() -> None:
    """Own similarity is that of the person named, though others are nearer to the crop."""
    own = np.array([[0.2, 0.9, 0.5]], np.float32)
    relations = Relations(np.array([[True, False, True]]), np.zeros((1, 3), bool))
    known = Answer(np.array([[0.9, 0.1, 0.2]], np.float32), None, np.array([[1, 2]]))
    strange = Answer(known.similarity, None, np.array([[1, 1]]))
    _, found = separate(known, strange, own, relations, np.array(["a", "b", "a"]))
    assert found.thresholds[0].value == pytest.approx(0.9)  # the stranger is taken for b
    assert (found.thresholds[0].named_rightly, found.auroc) == (0, 0)  # a's score is 0.5, not 0.9


@pytest.mark.parametrize("stages", ["SMC", "SM"])
def test_strangers_score_as_in_a_gallery_without_them(
    evaluation: Evaluation,
    graphs: Graphs,
    tiny_bundle: Bundle,
    market: Path,
    market_set: TestSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stages: str,
) -> None:
    if stages == "SM":  # as with a bundle that has no decoder
        monkeypatch.setattr(Pipeline, "_open_consolidator", lambda *_: None)
    build_gallery(tiny_bundle, market / "bounding_box_test", tmp_path / "all")
    similarity, own = [], []
    for person in sorted({image.identity for image in market_set.query}):
        crops = [resize(read_image(image.path), 64, 32) for image in market_set.query if image.identity == person]
        shutil.copytree(tmp_path / "all", tmp_path / person)
        with Gallery.open(tmp_path / person, tiny_bundle.binding, writable=True) as gallery:
            gallery.remove(identity=person)
            for answer in Pipeline(tiny_bundle, gallery, threads=1).identify(np.stack(crops)):
                similarity.append(answer.similarity)
                own.append(answer.own_similarity)

    found = evaluation.separate(graphs, base_configuration(tiny_bundle, stages))
    assert [one.score for one in found] == ["similarity", "own_similarity"]
    for one, scores in zip(found, (similarity, own), strict=True):
        ascending = np.sort(scores)  # 24 strangers: none may reach the first threshold, one the second, two the third
        assert [row.value for row in one.thresholds[:3]] == pytest.approx(ascending[[-1, -2, -3]], abs=2e-5)


def test_thresholds_from_the_command_line(market: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    given = ["eval", str(market), "--bundle", str(tiny_bundle.folder), "--strangers"]
    result = CliRunner().invoke(app, [*given, "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "strangers" in result.stdout
    content = json.loads(out.read_text())
    assert [one["score"] for one in content["strangers"]] == ["similarity", "own_similarity"]
    assert set(content["strangers"][0]["thresholds"][0]) == {
        "accepted_strangers", "value", "named_rightly", "named_wrongly"
    }  # fmt: skip

    result = CliRunner().invoke(app, [*given, "--rerank"])
    assert "without --sweep and --rerank" in str(result.exception)
