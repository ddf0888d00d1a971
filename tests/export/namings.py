"""Writes our models out under the names other people's checkpoints have."""

import torch

from export.model import FPCModel

State = dict[str, torch.Tensor]


def fpc_naming(model: FPCModel, identities: int = 5) -> State:
    """The FPC authors' naming, with the parameters that deployment does not use."""
    state, last = _shared(model)
    width = model.config.embed_dim
    for ours, theirs in (
        ("head", ("b1.0", "b1.1", "bottleneck")),
        ("decoder", ("rec_b.0", "rec_b.1", "rec_bottleneck")),
    ):
        state |= _head(model, ours, *theirs)
    state |= {f"base.blocks.{last}.{key}": value.clone() for key, value in model.head.block.state_dict().items()}
    state |= {"base.norm.weight": torch.ones(width), "base.norm.bias": torch.zeros(width)}
    state |= {"base.fc.weight": torch.zeros(1000, width), "base.fc.bias": torch.zeros(1000)}
    return state | {f"{name}.weight": torch.zeros(identities, width) for name in ("classifier", "rec_classifier")}


def transreid_naming(model: FPCModel, *, jigsaw: bool) -> State:
    """TransReID's naming: the last block inside the base, or with the jigsaw heads b1 and b2 beside it."""
    state, last = _shared(model)
    state["classifier.weight"] = torch.zeros(5, model.config.embed_dim)
    if not jigsaw:
        return state | _head(model, "head", f"base.blocks.{last}", "base.norm", "bottleneck")
    state |= _head(model, "head", "b1.0", "b1.1", "bottleneck")
    state |= {key.replace("b1.", "b2.", 1): value for key, value in state.items() if key.startswith("b1.")}
    other = torch.randn(model.config.embed_dim)
    state |= {f"base.blocks.{last}.norm1.weight": other, "base.norm.weight": other, "base.norm.bias": other}
    for branch in (1, 2, 3, 4):
        state |= {f"bottleneck_{branch}.weight": other, f"classifier_{branch}.weight": other}
    return state


def _shared(model: FPCModel) -> tuple[State, int]:
    ours = model.state_dict()
    state = {f"base.{key}": value for key, value in ours.items() if key.startswith("blocks.")}
    state |= {"base.cls_token": ours["cls_token"], "base.pos_embed": ours["pos_embed"]}
    state |= {f"base.patch_embed.proj.{part}": ours[f"patch_embed.{part}"] for part in ("weight", "bias")}
    state["base.sie_embed"] = ours["camera_embed"].unsqueeze(1)
    return state, model.config.depth - 1


def _head(model: FPCModel, ours: str, block: str, norm: str, neck: str) -> State:
    head = model.get_submodule(ours)
    parts = {"block": block, "norm": norm, "bottleneck": neck}
    return {
        f"{theirs}.{key}": value
        for part, theirs in parts.items()
        for key, value in head.get_submodule(part).state_dict().items()
    }
