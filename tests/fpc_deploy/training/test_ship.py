"""The shipped form: half the size, nearly the same answers."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from export.checkpoint import load_checkpoint, read_tensors, save_checkpoint
from export.model import FPCModel
from fpc_deploy.training.ship import ship_model
from tests.fpc_deploy.training.conftest import CONFIG, RECIPE


def test_a_shipped_model_is_half_as_large_and_answers_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FPCModel(replace(CONFIG, cameras=2)).eval()
    recipe = asdict(RECIPE) | {"prune_at": [1, 2]}
    training = {"recipe": recipe, "classifier": {"weight": torch.zeros(9, 32)}}
    save_checkpoint(tmp_path / "whole.pth", model, {"camera_names": ["c1", "c2"], "training": training})

    ship_model(tmp_path / "whole.pth", tmp_path / "small.pth")

    shipped = load_checkpoint(tmp_path / "small.pth").model
    pixels, camera = torch.randn(2, 3, 32, 16), torch.tensor([0, 2])
    with torch.no_grad():
        tokens, expected = (each.encode(pixels, camera, {}).tokens for each in (shipped, model))
    assert tokens.dtype == torch.float32
    assert float(torch.nn.functional.cosine_similarity(tokens, expected, dim=-1).min()) > 0.999
    content = read_tensors(tmp_path / "small.pth")
    assert (content["camera_names"], content["training"]) == (["c1", "c2"], {"recipe": recipe})
    assert (tmp_path / "small.pth").stat().st_size < 0.7 * (tmp_path / "whole.pth").stat().st_size
