"""Fixtures shared by all tests: small seeded models exported for real, once a session."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from export.checkpoint import save_checkpoint
from export.model import FPCModel, ModelConfig
from export.write import ExportOptions, export_bundle
from runtime.bundle import Bundle

TINY = ModelConfig(
    backbone="vit_tiny_patch16_224", embed_dim=64, depth=4, heads=2, height=64, width=32, stride=11, cameras=3
)
"""A 5x2 grid of patches; blocks 0 to 2 are shared."""
TINY_EXPORT = ExportOptions(keep_rate=0.8, prune_at=(1, 2), camera_names=("door", "till", "yard"))


def seeded_model(config: ModelConfig = TINY, seed: int = 0) -> FPCModel:
    """A model whose parameters come from a seed, with BatchNorm statistics that are not the identity."""
    torch.manual_seed(seed)
    model = FPCModel(config)
    for head in (model.head, model.decoder):
        assert head is not None
        head.bottleneck.running_mean.normal_(0, 0.05)  # type: ignore[union-attr]
        head.bottleneck.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_works() -> None:
    """Whoever starts the suite in the background has SIGINT ignored, and so would all that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured in tests, by commands they start too, is kept apart from what the user's machine measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FPC_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny model in our own format."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    save_checkpoint(path, seeded_model())
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model, exported."""
    return export_bundle(tiny_checkpoint, tmp_path_factory.mktemp("bundle") / "tiny", TINY_EXPORT)
