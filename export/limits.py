"""What a checkpoint or a command may ask for. Checkpoints come from elsewhere: nothing in one is believed unchecked."""

import difflib
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import Attention, Block  # type: ignore[attr-defined]  # not of timm.layers in 1.0.15
from torch import Tensor

from export.model import ModelConfig, create_blocks
from runtime.errors import CheckpointError

SIZE_LIMITS = {"embed_dim": 4096, "depth": 64, "heads": 64, "mlp_ratio": 16, "height": 4096, "width": 4096}
SIZE_LIMITS |= {"patch_size": 64, "stride": 64, "cameras": 100_000}
"""Beyond any ViT in use: larger numbers come from a damaged or hostile file."""
SMALL_MODEL = 2**24
"""Parameters that may be made room for without asking whether the file holds as many: 64 MB."""
MOST_CAMERA_COEFFICIENT = 1e4
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_backbone(name: str, where: object = "model") -> None:
    """Refuse all but timm's ViTs of plain blocks, the only ones that `FPCModel` computes as timm does.

    Raises:
        CheckpointError: it is another; the message starts with `where`.
    """
    # only timm's own names: "hf-hub:..." would make it fetch a configuration from elsewhere
    if not isinstance(name, str) or name not in timm.list_models("vit_*"):
        near = difflib.get_close_matches(name, timm.list_models("vit_*"), n=1) if isinstance(name, str) else []
        raise CheckpointError(f"{where}: {_shown(name)} is no timm ViT{f' (nearest: {near[0]})' if near else ''}")
    if not _has_plain_blocks(name):
        raise CheckpointError(
            f"{where}: {name} is not made of plain ViT blocks: take another backbone, as {ModelConfig.backbone}"
        )


@functools.cache
def _has_plain_blocks(backbone: str) -> bool:
    with torch.random.fork_rng(devices=[]):  # looking must not change what training draws
        try:
            block = create_blocks(replace(ModelConfig(), backbone=backbone, embed_dim=64, heads=1), 1)[0]
        except Exception:  # a ViT that cannot be made in another size
            return False
    return type(block) is Block and type(block.attn) is Attention


def check_config(config: ModelConfig, where: object = "model") -> None:
    """Refuse a configuration that names no timm ViT or whose sizes are absurd: it may come from a hostile file.

    Raises:
        CheckpointError: no model can be built of it; the message starts with `where`.
    """
    for name, most in SIZE_LIMITS.items():
        value, least = getattr(config, name), 0 if name == "cameras" else 1
        if name == "mlp_ratio":
            if type(value) not in (int, float) or not 0 < value <= most:
                raise CheckpointError(f"{where}: {name} is {_shown(value)}, it must be a number up to {most}")
        elif type(value) is not int or not least <= value <= most:
            raise CheckpointError(
                f"{where}: {name} is {_shown(value)}, it must be a whole number from {least} to {most}"
            )
    coefficient = config.camera_coefficient
    if type(coefficient) not in (int, float) or not abs(coefficient) <= MOST_CAMERA_COEFFICIENT:
        raise CheckpointError(
            f"{where}: camera_coefficient is {_shown(coefficient)}, "
            f"it must be a number up to {MOST_CAMERA_COEFFICIENT:.0f}"
        )
    if type(config.qkv_bias) is not bool:
        raise CheckpointError(f"{where}: qkv_bias is {_shown(config.qkv_bias)}, it must be true or false")
    if config.embed_dim % config.heads:
        raise CheckpointError(
            f"{where}: width {config.embed_dim} does not divide into {config.heads} heads: give --heads"
        )
    if min(config.grid) < 1:
        raise CheckpointError(f"{where}: a {config.height}x{config.width} crop holds no patch of {config.patch_size}")
    check_backbone(config.backbone, where)


def check_names(path: Path, state: Mapping[Any, object]) -> None:
    """Refuse names that are no text, or that would break the line of a message."""
    odd = next((key for key in state if not (isinstance(key, str) and key.isprintable())), None)
    if odd is not None:
        raise CheckpointError(f"{path} names a parameter {_shown(odd)}: save model.state_dict()")


def check_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are no dense real numbers, or larger than what the file holds of them (stride 0)."""
    for name, value in state.items():
        counter = name.endswith("num_batches_tracked") and value.dtype == torch.int64
        dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_nested
        if not dense or not (counter or value.dtype in FLOATS):
            kind = f"{value.dtype}, {value.layout}, on {value.device.type}".replace("torch.", "")
            raise CheckpointError(f"{path}: {name} is {kind}: save it as a dense tensor of float32")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise CheckpointError(f"{path}: {name} is larger than what is stored of it: save a contiguous tensor")


def _shown(value: object) -> str:
    """Return what a message says of a value of any kind, on one line."""
    return repr(value)[:80] if isinstance(value, str | int | float | None) else type(value).__name__


def check_amount(path: Path, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """Refuse a configuration far larger than the file before memory is taken for it.

    Building on torch's meta device would compare names and shapes as well, but timm 1.0.15 cannot build there.
    """
    width, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
    rows = 1 + config.patches + config.cameras + 3 * config.patch_size**2
    needed = width * (rows + config.depth * (4 * width + 2 * hidden))
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in state.values()}
    held = sum(stored.values()) // 2  # of half precision
    if needed > 2 * held + SMALL_MODEL:  # of what lacks less, the names say more
        raise CheckpointError(
            f"{path} is damaged: its sizes (width {width}, depth {config.depth}, {config.patches} patches, "
            f"{config.cameras} cameras) take {needed:,} numbers, and it holds {held:,} at most"
        )
