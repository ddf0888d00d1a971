"""What training starts from: random weights, ImageNet's, or a checkpoint."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from export.checkpoint import load_checkpoint, read_tensors
from export.limits import check_backbone
from export.model import FPCModel, ModelConfig
from fpc_deploy.training.images import ImageSet
from runtime.errors import CheckpointError, FpcError

log = logging.getLogger(__name__)


def random_model(config: ModelConfig) -> FPCModel:
    """Return a model with random weights."""
    return FPCModel(config)


def backbone_config(backbone: str) -> ModelConfig:
    """Return the configuration with the sizes that timm's ViT has: what its ImageNet weights fit.

    Raises:
        CheckpointError: it is no ViT of plain blocks.
    """
    check_backbone(backbone)
    vit: Any = timm.create_model(backbone, pretrained=False, num_classes=0)
    block = vit.blocks[0]
    return ModelConfig(
        backbone=backbone,
        embed_dim=vit.embed_dim,
        depth=len(vit.blocks),
        heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / vit.embed_dim,
        qkv_bias=block.attn.qkv.bias is not None,
        patch_size=vit.patch_embed.proj.kernel_size[0],
    )


def pretrained_model(config: ModelConfig) -> FPCModel:
    """Return a model with the ImageNet weights that timm has for the backbone.

    Raises:
        FpcError: timm has none, or they cannot be fetched.
        CheckpointError: they have another width, depth, number of heads or patch size.
    """
    try:
        vit: Any = timm.create_model(config.backbone, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FpcError(f"no pretrained weights of {config.backbone}: {why}") from error
    return from_timm(vit, config)


def from_timm(vit: Any, config: ModelConfig) -> FPCModel:
    """Return a model with the weights of a timm ViT: its last block and norm become the head's.

    Args:
        vit: its position rows are resampled to the model's grid of patches.
        config: of the model.

    Raises:
        CheckpointError: the ViT has another width, depth, number of heads or patch size.
    """
    state: dict[str, Tensor] = vit.state_dict()
    model = FPCModel(config)
    last = config.depth - 1
    names = {f"blocks.{last}.": "head.block.", "norm.": "head.norm.", "patch_embed.proj.": "patch_embed."}
    renamed = {}
    for key, value in state.items():
        prefix = next((theirs for theirs in names if key.startswith(theirs)), "")
        renamed[names.get(prefix, "") + key[len(prefix) :]] = value
    grid = list(vit.patch_embed.grid_size)
    renamed["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], list(config.grid), grid)
    own = model.state_dict()
    unfit = [key for key, value in renamed.items() if key not in own or own[key].shape != value.shape]
    absent = [
        key for key in own
        if key not in renamed and key != "camera_embed" and not key.startswith("decoder.") and "bottleneck" not in key
    ]  # fmt: skip
    if vit.blocks[0].attn.num_heads != config.heads:
        unfit.append("the number of heads")  # no shape tells it
    if unfit or absent:
        raise CheckpointError(
            f"the pretrained {config.backbone} differs in {(unfit + absent)[0]}: "
            "leave --embed-dim, --depth, --heads and --patch-size to the backbone, or leave --pretrained out"
        )
    model.load_state_dict(renamed, strict=False)
    return model


def given_model(path: Path) -> FPCModel:
    """Return the model of a checkpoint, with a decoder even where the checkpoint has none."""
    model = load_checkpoint(path).model
    if model.decoder is None:
        whole = FPCModel(model.config)
        whole.load_state_dict(model.state_dict(), strict=False)
        return whole
    return model


def camera_names(path: Path, config: ModelConfig, found: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the names of a checkpoint's cameras, or None where they cannot be told.

    Args:
        path: the checkpoint.
        config: of its model.
        found: names in the data set; taken where the checkpoint has as many cameras and no names.
    """
    stored = read_tensors(path).get("camera_names")
    if isinstance(stored, list) and len(stored) == config.cameras and all(isinstance(name, str) for name in stored):
        return tuple(stored)
    return found if len(found) == config.cameras else None


def renumber_cameras(images: ImageSet, names: tuple[str, ...] | None, config: ModelConfig) -> ImageSet:
    """Return the images with the model's numbers of cameras; a camera that the model does not name is unknown."""
    number = {name: index for index, name in enumerate(names or ())}
    cameras = torch.tensor([number.get(label, config.cameras) for label in images.camera_labels])
    if bool((cameras == config.cameras).all()) and config.cameras:
        log.warning("none of the %d cameras of the model is in the data set: all count as unknown", config.cameras)
    return replace(images, cameras=cameras, camera_names=names or ())
