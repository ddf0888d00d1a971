"""A data set of striped pictures and a model small enough to train in a second."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.model import ModelConfig
from fpc_deploy.training.device import Compute
from fpc_deploy.training.recipe import Recipe
from fpc_deploy.training.train import TrainingPlan

CONFIG = ModelConfig(
    backbone="vit_tiny_patch16_224", embed_dim=32, depth=4, heads=2, height=32, width=16, patch_size=8, stride=8
)
"""A 4x2 grid of patches; blocks 0 to 2 are shared."""
RECIPE = Recipe(
    prune_at=(1, 2), encoder_epochs=3, decoder_epochs=2, batch_size=8, images_per_identity=4, optimizer="adamw",
    learning_rate=2e-3, decoder_learning_rate=1e-3, padding=2, erasing=0.2, neighbours=3, evaluate_every=2,
)  # fmt: skip
FLOAT32 = Compute(torch.device("cpu"), bfloat16=False)


def draw_picture(identity: int, number: int) -> Image.Image:
    """Two colours that are the person's, and noise that is the picture's."""
    colours = np.random.default_rng(identity).integers(30, 225, (2, 1, 1, 3))
    noise = np.random.default_rng(1000 * identity + number).integers(-25, 25, (32, 16, 3))
    pixels = np.concatenate([np.broadcast_to(colour, (16, 16, 3)) for colour in colours]) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_dataset(folder: Path, identities: int = 6, images: int = 4) -> Path:
    """Write people by two cameras into the three folders of Market-1501."""
    for part, first, count in (("bounding_box_train", 0, images), ("query", 50, 1), ("bounding_box_test", 60, 2)):
        (folder / part).mkdir(parents=True)
        for identity in range(1, identities + 1):
            for number in range(first, first + count):
                camera = 1 if part == "query" else 1 + number % 2
                name = f"{identity:04d}_c{camera}s1_{number:06d}_00.png"
                draw_picture(identity, number).save(folder / part / name)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people, four training pictures each."""
    return write_dataset(tmp_path_factory.mktemp("people") / "set")


@pytest.fixture
def plan(dataset: Path, tmp_path: Path) -> TrainingPlan:
    """Three epochs of phase 1, two of phase 2."""
    return TrainingPlan(dataset, tmp_path / "run", CONFIG, replace(RECIPE))
