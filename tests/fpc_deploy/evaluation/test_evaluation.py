"""What is measured is what is deployed: rows against `runtime.pipeline`, the gallery's own ranking and the graphs."""

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.protocol import relate
from fpc_deploy.evaluation.datasets import TestSet, read_test_set
from fpc_deploy.evaluation.evaluation import Evaluation, Options, Outcome
from fpc_deploy.evaluation.plan import base_configuration
from fpc_deploy.evaluation.reranking import Reranking
from fpc_deploy.evaluation.similarity import BEHIND, Graphs
from runtime.bundle import Bundle, MatchSettings
from runtime.encoder import Encoder
from runtime.errors import FpcError, SourceError
from runtime.gallery import Gallery
from runtime.images import read_image, resize
from runtime.indexing import build_gallery
from runtime.pipeline import Pipeline
from tests.fpc_deploy.evaluation.conftest import STEPS

Run = Callable[..., Outcome]


@pytest.fixture
def run(evaluation: Evaluation, graphs: Graphs) -> Run:
    """Run stages on the shared evaluation, with settings of the bundle replaced."""

    def run_(stages: str, **settings: object) -> Outcome:
        return evaluation.run(graphs, replace(base_configuration(graphs.bundle, stages), **settings))  # type: ignore[arg-type]

    return run_


@pytest.fixture(scope="session")
def crops(market_set: TestSet) -> np.ndarray:
    """All query crops."""
    return np.stack([resize(read_image(image.path), 64, 32) for image in market_set.query])


@pytest.fixture(scope="session")
def indexed(tiny_bundle: Bundle, market: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """The gallery as `fpc-deploy index build` makes it."""
    folder = tmp_path_factory.mktemp("indexed") / "gallery"
    build_gallery(tiny_bundle, market / "bounding_box_test", folder)
    return Gallery.open(folder, tiny_bundle.binding)


@pytest.mark.parametrize(("alpha", "neighbours", "refine"), [(0.4, 10, 100), (0.0, 5, 100), (0.7, 3, 12)])
def test_all_stages_answer_as_the_pipeline_does(
    run: Run, tiny_bundle: Bundle, indexed: Gallery, crops: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]",
    alpha: float, neighbours: int, refine: int,
) -> None:  # fmt: skip
    settings = MatchSettings(alpha=alpha, neighbours=neighbours, refine=refine)
    answers = Pipeline(tiny_bundle, indexed, settings, threads=1).identify(crops)
    outcome = run("SMC", alpha=alpha, neighbours=neighbours, refine=refine)

    best = outcome.similarity.argmax(axis=1)
    assert [str(outcome.gallery.identity[column]) for column in best] == [answer.identity for answer in answers]
    expected = np.array([answer.similarity for answer in answers])
    np.testing.assert_allclose(outcome.similarity.max(axis=1), expected, atol=2e-5)


def test_candidates_come_in_the_order_of_the_pipeline(
    run: Run, tiny_bundle: Bundle, indexed: Gallery, crops: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"
) -> None:
    """With S and M, the first 12 are those that the pipeline would rebuild from, at their distances."""
    answers = Pipeline(tiny_bundle, indexed, MatchSettings(neighbours=12, refine=20), threads=1).identify(crops)
    similarity = run("SM", refine=20).similarity

    expected = np.array([[1 - near.distance for near in answer.neighbours] for answer in answers])
    np.testing.assert_allclose(-np.sort(-similarity, axis=1)[:, :12], expected, atol=2e-5)
    assert ((similarity > 1 - BEHIND).sum(axis=1) == 20).all()


@pytest.mark.parametrize(("stages", "sparse"), [("S", True), ("none", False)])
def test_descriptors_are_compared_as_the_gallery_ranks(
    run: Run, tiny_bundle: Bundle, indexed: Gallery, market_set: TestSet,
    crops: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", stages: str, sparse: bool,
) -> None:  # fmt: skip
    descriptor = Encoder(tiny_bundle, sparse=sparse, threads=1).encode(crops).descriptor
    ranked = indexed.rank(descriptor, len(indexed))
    similarity = run(stages).similarity

    place = {entry.source: number for number, entry in enumerate(indexed.entries(sorted(ranked.entries[0])))}
    order = [place[str(image.path.absolute())] for image in market_set.gallery]  # the gallery in the order of the set
    by_id = np.take_along_axis(ranked.cosine, ranked.entries.argsort(axis=1), axis=1)
    np.testing.assert_allclose(similarity, by_id[:, order], atol=2e-5)


def test_work_is_shared_between_rows(run: Run) -> None:
    """Whatever ran before on the shared evaluation, gallery and queries of each encoder were read once."""
    for stages in ("none", "S", "SM", "SC", "SMC"):
        run(stages)
    again = len(STEPS)
    for stages in ("none", "S", "SM", "SC", "SMC"):
        run(stages)

    assert {name for name, _, _ in STEPS[again:]} == {"consolidating"}
    ends = Counter(name for name, done, total in STEPS if done == total)
    assert ends["building the gallery"] == ends["reading queries"] == 1
    assert ends["encoding queries"] == 2


def test_stages_change_what_is_compared(run: Run) -> None:
    found = [run(stages).similarity for stages in ("none", "S", "SM", "SC", "SMC")]
    for one in range(5):
        for other in range(one):
            assert np.abs(found[one] - found[other]).max() > 1e-3, (one, other)


def test_strict_neighbours_are_none_that_the_protocol_leaves_out(
    market_set: TestSet, graphs: Graphs, tmp_path: Path
) -> None:
    with Evaluation(market_set, tmp_path, Options(strict=True), lambda *_: None) as strict:
        outcome = strict.run(graphs, replace(base_configuration(graphs.bundle, "SM"), refine=30))
    left_out = relate(outcome.query, outcome.gallery).left_out
    candidates = outcome.similarity > 1 - BEHIND

    assert left_out.sum(axis=1).tolist() == [2] * 24
    assert not (candidates & left_out).any()
    assert (candidates.sum(axis=1) == 30).all()


def test_a_gallery_of_cls_tokens(market_set: TestSet, graphs: Graphs, tmp_path: Path) -> None:
    outcomes, sizes = {}, {}
    for tokens in ("full", "cls"):
        with Evaluation(market_set, tmp_path, Options(tokens=tokens), lambda *_: None) as one:
            outcomes[tokens] = one.run(graphs, base_configuration(graphs.bundle, "SC"))
            sizes[tokens] = one.gallery_size()
    assert sizes["cls"].entries == sizes["full"].entries == 49
    assert sizes["cls"].bytes < sizes["full"].bytes
    assert np.abs(outcomes["cls"].similarity - outcomes["full"].similarity).max() > 1e-4


def test_reranking_changes_the_ranking_and_is_named(market_set: TestSet, graphs: Graphs, tmp_path: Path) -> None:
    options = Options(reranking=Reranking(5, 2, 0.3))
    with Evaluation(market_set, tmp_path, options, lambda *_: None) as one:
        outcome = one.run(graphs, base_configuration(graphs.bundle, "SMC"))
        assert outcome.row.as_json()["rerank"] == "5,2,0.3"
        with pytest.raises(FpcError, match="re-ranking compares descriptors"):
            one.run(graphs, base_configuration(graphs.bundle, "SM"))


def test_broken_images_cost_their_rows_only(
    market: Path, graphs: Graphs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(market, tmp_path / "damaged")
    for part in ("query", "bounding_box_test"):
        (folder / part / "0001_c1s1_000007_00.png").write_bytes(b"no picture")
    with (
        caplog.at_level(logging.WARNING),
        Evaluation(read_test_set(folder), tmp_path, Options(), lambda *_: None) as one,
    ):
        outcome = one.run(graphs, base_configuration(graphs.bundle, "S"))
    assert outcome.similarity.shape == (24, 49)
    assert caplog.text.count("is not an image of a known format") == 2


def test_no_readable_query(market: Path, graphs: Graphs, tmp_path: Path) -> None:
    folder = shutil.copytree(market, tmp_path / "damaged")
    for path in (folder / "query").iterdir():
        path.write_bytes(b"")
    with (
        Evaluation(read_test_set(folder), tmp_path, Options(), lambda *_: None) as one,
        pytest.raises(SourceError, match="none of the 24 query images can be read"),
    ):
        one.run(graphs, base_configuration(graphs.bundle, "S"))


@pytest.mark.parametrize("stages", ["M", "MC"])
def test_matching_without_pruning_is_refused(run: Run, stages: str) -> None:
    with pytest.raises(FpcError, match="without S"):
        run(stages)
