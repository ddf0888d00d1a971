from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoint import save_checkpoint
from fpc_deploy.evaluation.datasets import TestSet
from fpc_deploy.evaluation.evaluation import Evaluation, Options
from fpc_deploy.evaluation.plan import base_configuration, parse_numbers, parse_whole, swept
from fpc_deploy.evaluation.similarity import Graphs
from fpc_deploy.evaluation.sweeps import ALPHAS, NEIGHBOURS, shifted, sweep_alpha, sweep_neighbours
from fpc_deploy.evaluation.variants import Variants
from runtime.bundle import Bundle
from runtime.encoder import Encoder
from runtime.errors import CheckpointError, FpcError
from tests.conftest import TINY, seeded_model


@pytest.fixture(scope="module")
def variants(tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Variants:
    return Variants(tiny_bundle, tiny_checkpoint, tmp_path_factory.mktemp("variants"), lambda _: None)


@pytest.fixture(scope="module")
def crops() -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.random.default_rng(0).integers(0, 256, (6, TINY.height, TINY.width, 3), dtype=np.uint8)


def test_alpha_and_neighbours_need_no_export(evaluation: Evaluation, graphs: Graphs) -> None:
    base = base_configuration(graphs.bundle)
    alphas = [one.row for one in sweep_alpha(evaluation, graphs, base)]
    counts = [one.row for one in sweep_neighbours(evaluation, graphs, base)]
    assert [row.configuration.alpha for row in alphas] == list(ALPHAS)
    assert [row.as_json()["neighbours"] for row in counts] == list(NEIGHBOURS)
    assert len({row.scores.mean_ap for row in counts}) > 1


def test_alpha_0_is_the_matching_by_cosine(evaluation: Evaluation, graphs: Graphs) -> None:
    base = base_configuration(graphs.bundle)
    (zero,) = sweep_alpha(evaluation, graphs, base, [0.0])
    without = evaluation.run(graphs, base_configuration(graphs.bundle, "SC"))
    np.testing.assert_array_equal(zero.similarity, without.similarity)


@pytest.mark.parametrize(
    ("blocks", "shared", "expected"),
    [((3, 6, 9), 11, [(0, 3, 6), (1, 4, 7), (2, 5, 8), (3, 6, 9), (4, 7, 10)]), ((1, 2), 3, [(0, 1), (1, 2)])],
)
def test_places_are_moved_as_far_as_the_model_goes(
    blocks: tuple[int, ...], shared: int, expected: list[tuple[int, ...]]
) -> None:
    assert shifted(blocks, shared) == expected


def test_the_base_is_not_exported_again(variants: Variants, tiny_bundle: Bundle) -> None:
    assert variants.bundle(0.8, (1, 2)) is tiny_bundle


def test_torch_prunes_by_attention_as_the_graph_does(
    variants: Variants, tiny_bundle: Bundle, crops: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"
) -> None:
    """So that the comparison strategies differ from the exported graph in the strategy alone."""
    camera = np.array([0, 1, 2, 3, 0, 1])
    found = variants.torch_encoder(tiny_bundle, "attention", 0).encode(crops, camera)
    expected = Encoder(tiny_bundle, sparse=True, threads=1).encode(crops, camera)
    for name in ("cls", "patches", "descriptor"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=5e-5)
    np.testing.assert_array_equal(found.kept, expected.kept)


def test_strategies_keep_as_many_but_other_patches(
    variants: Variants, tiny_bundle: Bundle, crops: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"
) -> None:
    camera = np.full(6, 3)
    kept = {}
    for drop in ("attention", "random", "inverse"):
        found = variants.torch_encoder(tiny_bundle, drop, 0).encode(crops, camera)
        assert found.kept is not None
        kept[drop] = [frozenset(row) for row in found.kept.tolist()]
        assert {len(row) for row in kept[drop]} == {tiny_bundle.manifest.keep_schedule.kept[-1]}
    for row in range(6):
        assert kept["attention"][row] != kept["inverse"][row]
    assert kept["random"] != kept["attention"]


def test_random_pruning_follows_its_seed_and_leaves_the_generator_alone(
    variants: Variants, tiny_bundle: Bundle, crops: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"
) -> None:
    camera = np.full(6, 3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    runs = []
    for seed in (1, 1, 2):
        encoder = variants.torch_encoder(tiny_bundle, "random", seed)
        runs.append([np.asarray(encoder.encode(crops, camera).kept) for _ in range(2)])
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0][0] != runs[2][0]).any()
    assert (runs[0][0] != runs[0][1]).any()  # another batch, another choice


@pytest.mark.slow
def test_sweeps_that_export(market_set: TestSet, graphs: Graphs, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """One gallery serves all variants; each prunes as it should, and costs less the more it prunes."""
    steps: list[str] = []
    base = base_configuration(graphs.bundle)
    with Evaluation(market_set, tmp_path, Options(), lambda name, done, total: steps.append(name)) as one:

        def run(sweep: str, values: str) -> list[tuple[object, ...]]:
            found = swept(one, graphs, base, sweep, values, tiny_checkpoint, tmp_path, seed=0)  # type: ignore[arg-type]
            return [
                (
                    o.row.keep_rate,
                    o.row.pruned_at,
                    o.row.configuration.drop,
                    o.row.multiply_adds_g,
                    o.row.scores.mean_ap,
                )
                for o in found
            ]

        rates, places, drops = run("keep-rate", "0.8,0.5"), run("prune-at", "0,1;1,2"), run("drop", "0.5")
    assert [row[:2] for row in rates] == [(0.8, (1, 2)), (0.5, (1, 2))]
    assert [row[1] for row in places] == [(0, 1), (1, 2)]
    assert [row[2] for row in drops] == ["attention", "random", "inverse"]
    cost = [float(str(row[3])) for row in (*rates, *places)]
    assert cost[0] > cost[1]
    assert cost[2] < cost[3] == cost[0]
    assert drops[0][4] == rates[1][4]  # the same bundle, the same answer
    assert len({row[4] for row in drops}) > 1
    assert steps.count("building the gallery") == 4  # 49 images in batches of 16


def test_another_checkpoint_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "other.pth", seeded_model(seed=9))
    with pytest.raises(CheckpointError, match="was not exported from"):
        Variants(tiny_bundle, tmp_path / "other.pth", tmp_path, lambda _: None)


def test_a_converted_bundle_is_refused(tiny_bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path) -> None:
    half = Bundle(tiny_bundle.folder, tiny_bundle.manifest.model_copy(update={"precision": "fp16"}))
    with pytest.raises(CheckpointError, match="is fp16"):
        Variants(half, tiny_checkpoint, tmp_path, lambda _: None)


@pytest.mark.parametrize(
    ("sweep", "stages", "message"),
    [
        ("keep-rate", "SMC", "give --checkpoint"),
        ("drop", "C", "varies stage S, which is off"),
        ("alpha", "SC", "varies stage M, which is off"),
        ("neighbours", "SM", "varies stage C, which is off"),
    ],
)
def test_sweeps_that_make_no_sense(
    evaluation: Evaluation, graphs: Graphs, tmp_path: Path, sweep: str, stages: str, message: str
) -> None:
    base = replace(base_configuration(graphs.bundle, stages))
    with pytest.raises(FpcError, match=message):
        swept(evaluation, graphs, base, sweep, "", None, tmp_path, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["x", "0.5,2", "-1"])
def test_values_that_are_none(text: str) -> None:
    with pytest.raises(FpcError, match="--values"):
        parse_numbers(text, 0, 1)


def test_whole_values() -> None:
    assert parse_whole("1, 5,20", 1, 100) == [1, 5, 20]
    with pytest.raises(FpcError, match="whole numbers"):
        parse_whole("1.5", 1, 100)
