"""Whole runs: losses fall, seeds decide, cut-off runs go on, phase 2 leaves phase 1 alone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint import load_checkpoint, read_tensors
from fpc_deploy.training.loop import Watcher
from fpc_deploy.training.record import FINAL, LAST
from fpc_deploy.training.train import HISTORY, PLOT, TrainingPlan, train_model
from runtime.errors import CheckpointError, FpcError
from tests.fpc_deploy.training.conftest import FLOAT32


def parameters(path: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = read_tensors(path)["model"]
    return model


def assert_same(one: Path, other: Path, only: Callable[[str], bool] = lambda name: True) -> None:
    first, second = parameters(one), parameters(other)
    assert first.keys() == second.keys()
    assert [name for name in first if only(name) and not torch.equal(first[name], second[name])] == []


class CutOffError(Exception):
    """Stands for a power cut."""


def cut_after(phase: str, epoch: int) -> Watcher:
    def told(line: dict[str, Any]) -> None:
        if (line["phase"], line["epoch"]) == (phase, epoch):
            raise CutOffError

    return Watcher(epoch=told)


def test_both_phases_learn_and_leave_a_checkpoint_plot_and_history(plan: TrainingPlan) -> None:
    steps: list[tuple[str, int, int, float]] = []
    longer = replace(plan, recipe=replace(plan.recipe, encoder_epochs=12, decoder_epochs=6))

    checkpoint = train_model(longer, FLOAT32, Watcher(step=lambda *told: steps.append(told)))

    history = json.loads((plan.run / HISTORY).read_text())
    encoder = [line["loss"] for line in history if line["phase"] == "encoder"]
    decoder = [line["loss"] for line in history if line["phase"] == "decoder"]
    assert (len(encoder), len(decoder)) == (12, 6)
    assert encoder[-1] < 0.8 * encoder[0]
    assert decoder[-1] < decoder[0]
    assert history[-1]["mAP"] > 50  # six people: chance is about 30
    assert (plan.run / PLOT).read_bytes().startswith(b"\x89PNG")
    assert steps[-1][:3] == ("decoder", 18, 18)
    loaded = load_checkpoint(checkpoint)
    assert loaded.source_format == "fpc-deploy"
    assert loaded.model.config.cameras == 2
    assert read_tensors(checkpoint)["camera_names"] == ["c1", "c2"]


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(plan: TrainingPlan, tmp_path: Path) -> None:
    first = train_model(plan, FLOAT32)
    again = train_model(replace(plan, run=tmp_path / "again"), FLOAT32)
    other = train_model(replace(plan, run=tmp_path / "other", recipe=replace(plan.recipe, seed=1)), FLOAT32)

    assert_same(first, again)
    assert not torch.equal(parameters(first)["patch_embed.weight"], parameters(other)["patch_embed.weight"])


@pytest.mark.parametrize(("phase", "epoch"), [("encoder", 1), ("encoder", 3), ("decoder", 1), ("decoder", 2)])
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    plan: TrainingPlan, tmp_path: Path, phase: str, epoch: int
) -> None:
    whole = train_model(replace(plan, run=tmp_path / "whole"), FLOAT32)
    with pytest.raises(CutOffError):
        train_model(plan, FLOAT32, cut_after(phase, epoch))
    assert not (plan.run / FINAL).exists()

    resumed = train_model(replace(plan, resume=True), FLOAT32)

    assert_same(whole, resumed)


def test_a_decoder_that_was_not_trained_is_not_exported(plan: TrainingPlan, tmp_path: Path) -> None:
    encoder = train_model(replace(plan, phases="encoder"), FLOAT32)
    assert load_checkpoint(encoder).model.decoder is None
    assert load_checkpoint(plan.run / LAST).model.decoder is None

    both = train_model(replace(plan, resume=True), FLOAT32)
    assert load_checkpoint(both).model.decoder is not None

    further = train_model(replace(plan, run=tmp_path / "further", phases="encoder", start=both), FLOAT32)
    assert load_checkpoint(further).model.decoder is None  # the one in `both` was another encoder's


def test_resuming_in_another_phase_says_which_it_is(plan: TrainingPlan) -> None:
    train_model(plan, FLOAT32)

    with pytest.raises(CheckpointError, match="is in phase decoder: give --phase decoder"):
        train_model(replace(plan, resume=True, phases="encoder"), FLOAT32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "does not divide into 5 heads"),
        ({"heads": 0}, "heads is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"embed_dim": 0}, "embed_dim is 0"),
        ({"backbone": "nosuch"}, "'nosuch' is no timm ViT"),
        ({"backbone": "resnet18"}, "'resnet18' is no timm ViT"),
        ({"backbone": "vit_relpos_small_patch16_224"}, "not made of plain ViT blocks"),
        ({"patch_size": 64}, "a 32x16 crop holds no patch of 64"),
    ],
)
def test_a_model_that_cannot_be_built_is_said_before_anything_is_read(
    plan: TrainingPlan, change: dict[str, Any], message: str
) -> None:
    nowhere = replace(plan, dataset=plan.run / "none", config=replace(plan.config, **change))

    with pytest.raises(CheckpointError, match=message):
        train_model(nowhere, FLOAT32)
    assert not plan.run.exists()


def test_phase_two_changes_the_decoder_alone(plan: TrainingPlan, tmp_path: Path) -> None:
    encoder = train_model(replace(plan, phases="encoder"), FLOAT32)
    decoder = train_model(replace(plan, run=tmp_path / "second", phases="decoder", start=encoder), FLOAT32)

    assert_same(encoder, decoder, only=lambda name: not name.startswith("decoder."))
    assert_same_head_differs(parameters(encoder), parameters(decoder))


def assert_same_head_differs(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    name = "block.mlp.fc1.weight"
    assert not torch.equal(after[f"decoder.{name}"], after[f"head.{name}"])  # it started as the head, and learned
    assert not torch.equal(after[f"decoder.{name}"], before[f"decoder.{name}"])


def test_the_phases_one_by_one_end_as_both_together(plan: TrainingPlan, tmp_path: Path) -> None:
    both = train_model(plan, FLOAT32)
    encoder = train_model(replace(plan, run=tmp_path / "first", phases="encoder"), FLOAT32)
    decoder = train_model(replace(plan, run=tmp_path / "second", phases="decoder", start=encoder), FLOAT32)

    assert_same(both, decoder)


def test_a_decoder_that_reads_the_query_and_neighbours_by_emd(plan: TrainingPlan) -> None:
    recipe = replace(
        plan.recipe, decoder_tokens="query+gallery", alpha=0.4, cls_weight=1.0, patch_weight=1.0, dense_share=0.5
    )

    assert train_model(replace(plan, recipe=recipe), FLOAT32).is_file()


def test_a_taken_folder_is_left_alone(plan: TrainingPlan) -> None:
    train_model(replace(plan, phases="encoder"), FLOAT32)
    before = (plan.run / LAST).read_bytes()

    with pytest.raises(FpcError, match="--resume"):
        train_model(plan, FLOAT32)
    assert (plan.run / LAST).read_bytes() == before


def test_resuming_with_other_options_names_them(plan: TrainingPlan) -> None:
    train_model(replace(plan, phases="encoder"), FLOAT32)

    with pytest.raises(CheckpointError, match=r"learning_rate 0.002 -> 0.5"):
        train_model(replace(plan, resume=True, recipe=replace(plan.recipe, learning_rate=0.5)), FLOAT32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resume": True}, "no run to resume"),
        ({"phases": "decoder"}, "--start"),
    ],
    ids=["nothing to resume", "no encoder"],
)
def test_plans_that_cannot_start(plan: TrainingPlan, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FpcError, match=message):
        train_model(replace(plan, **change), FLOAT32)
