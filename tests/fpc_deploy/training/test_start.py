"""What training starts from, and whose cameras are whose."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from export.checkpoint import save_checkpoint
from export.model import FPCModel, ModelConfig
from fpc_deploy.commands.train import _settings
from fpc_deploy.training.images import read_test_images, read_training_images
from fpc_deploy.training.start import backbone_config, camera_names, from_timm, given_model, renumber_cameras
from fpc_deploy.training.train import TrainingPlan, train_model
from runtime.errors import CheckpointError
from tests.fpc_deploy.training.conftest import CONFIG, FLOAT32, write_dataset


@pytest.fixture(scope="module")
def vit() -> Any:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=(32, 16), patch_size=8, embed_dim=32, depth=4, num_heads=2
    ).eval()


def test_a_timm_vit_answers_the_same_as_a_model(vit: Any) -> None:
    model = from_timm(vit, CONFIG).eval()
    pixels = torch.randn(2, 3, 32, 16)

    with torch.no_grad():
        tokens = model.encode(pixels, torch.zeros(2, dtype=torch.int64), {}).tokens
        torch.testing.assert_close(model.head(tokens)[0], vit.forward_features(pixels)[:, 0], rtol=1e-4, atol=1e-5)


def test_position_rows_are_resampled(vit: Any) -> None:
    config = replace(CONFIG, stride=4)  # overlapping patches: a 7x3 grid

    assert from_timm(vit, config).pos_embed.shape == (1, 22, 32)


@pytest.mark.parametrize("change", [{"depth": 5}, {"depth": 3}, {"embed_dim": 64}, {"patch_size": 4}, {"heads": 4}])
def test_a_vit_of_another_size(vit: Any, change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="leave --embed-dim"):
        from_timm(vit, replace(CONFIG, **change))


def test_sizes_that_were_not_given_are_those_of_the_pretrained_vit() -> None:
    assert backbone_config("vit_base_patch16_224") == ModelConfig()
    given = {"pretrained": True, "backbone": "vit_tiny_patch16_224", "stride": 16}

    config, _ = _settings(given)

    assert (config.embed_dim, config.depth, config.heads, config.patch_size, config.stride) == (192, 12, 3, 16, 16)
    assert _settings(given | {"depth": 5})[0].depth == 5  # which from_timm then refuses by name


def test_a_checkpoint_without_decoder_gets_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "two.pth", FPCModel(CONFIG, has_decoder=False))

    assert given_model(tmp_path / "two.pth").decoder is not None


def test_cameras_go_by_the_names_in_the_checkpoint(dataset: Path, tmp_path: Path) -> None:
    config = ModelConfig(**{**vars(CONFIG), "cameras": 3})
    save_checkpoint(tmp_path / "three.pth", FPCModel(config), {"camera_names": ["c7", "c2", "c9"]})
    images = read_training_images(dataset, 32, 16)

    names = camera_names(tmp_path / "three.pth", config, images.camera_names)

    assert set(renumber_cameras(images, names, config).cameras.tolist()) == {1, 3}  # c2, and c1, which is unknown


def test_cameras_without_names_are_unknown(dataset: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, cameras=5)
    save_checkpoint(tmp_path / "five.pth", FPCModel(config))
    tests = read_test_images(dataset, 32, 16)
    assert tests is not None

    names = camera_names(tmp_path / "five.pth", config, ("c1", "c2"))

    assert set(renumber_cameras(tests[0], names, config).cameras.tolist()) == {5}


def test_training_goes_on_from_another_data_set(plan: TrainingPlan, tmp_path: Path) -> None:
    first = train_model(replace(plan, phases="encoder"), FLOAT32)
    more = write_dataset(tmp_path / "more", identities=7)
    second = replace(plan, dataset=more, run=tmp_path / "second", start=first)

    assert train_model(second, FLOAT32).is_file()
    with pytest.raises(CheckpointError, match="no classifier of these 7 people"):
        train_model(replace(second, run=tmp_path / "third", phases="decoder"), FLOAT32)
