"""Reads checkpoints: the FPC authors' naming, TransReID's, and our own training format."""

import difflib
import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from export.limits import check_amount, check_config, check_names, check_tensors
from export.model import DecoderTokens, FPCModel, ModelConfig
from runtime.errors import CheckpointError, first_line
from runtime.files import whole_file

TRAINING_FORMAT = "fpc-deploy/checkpoint/1"
SourceFormat = Literal["fpc", "transreid", "fpc-deploy"]
State = dict[str, Tensor]

# Parameters that training needs and deployment does not: classifiers of every branch, the ImageNet classifier, the
# jigsaw branch of TransReID with its necks, and BatchNorm's counters.
UNUSED = re.compile(
    r"(rec_)?classifier(_\d+)?\..*|base\.(fc|head|head_dist|pre_logits\.fc)\..*|b2\..*|bottleneck_\d+\..*"
    r"|(.*\.)?num_batches_tracked"
)
# (height, width) and strides tried, in this order, when the checkpoint does not say its geometry: the sizes of the
# published FPC and TransReID configs.
IMAGE_SIZES = ((256, 128), (384, 128), (384, 192), (128, 64), (224, 224), (384, 384))
STRIDES = (11, 12, 14, 16, 8)
HEAD_WIDTH = 64
"""Width of one attention head in the published ViT and DeiT (tiny 192/3, small 384/6, base 768/12).

TransReID's own vit_small (768/8) is the exception; it is refused.
"""
BIASLESS_WIDTH = 768
"""At this width only TransReID's vit_small has no bias of queries, keys and values; its scale is not a head's."""
BACKBONES = {192: "vit_tiny_patch16_224", 384: "vit_small_patch16_224", 768: "vit_base_patch16_224"}


@dataclass(frozen=True)
class Geometry:
    """What a state dict does not tell, given by the caller where guessing fails. None means: find out."""

    backbone: str | None = None
    image_size: tuple[int, int] | None = None
    stride: int | None = None
    heads: int | None = None


@dataclass(frozen=True)
class TrainedFor:
    """How a model was trained to be used; the defaults are the published configuration (design section 4).

    Attributes:
        keep_rate: share of patches that survives each pruning block.
        prune_at: blocks that prune, counted from 0.
        decoder_tokens: whether the query's own tokens join its neighbours' in the decoder.
    """

    keep_rate: float = 0.8
    prune_at: tuple[int, ...] = (3, 6, 9)
    decoder_tokens: DecoderTokens = "gallery"


PUBLISHED = TrainedFor()


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint as a model.

    Attributes:
        model: in eval mode.
        trained_for: what our own checkpoints say of it; the published configuration for all others.
        source_format: whose naming the checkpoint has.
        model_hash: SHA-256 of the parameters in use, the same for any file that holds them.
        unused: names of parameters that deployment does not need.
    """

    model: FPCModel
    source_format: SourceFormat
    model_hash: str
    unused: tuple[str, ...]
    trained_for: TrainedFor = PUBLISHED


def load_checkpoint(path: Path, geometry: Geometry = Geometry()) -> LoadedModel:
    """Read a checkpoint without running any code in it.

    A decoder that no phase 2 has trained is left out: the model then has none.

    Raises:
        CheckpointError: the file is missing, truncated, no checkpoint, holds code, misses parameters, has parameters
            that fit nothing or have another shape, or its image size cannot be told.
    """
    content = read_tensors(path)
    if content.get("format") == TRAINING_FORMAT:
        return _load_own(path, content)
    state = _state_dict(path, content)
    source, renamed, unused = _rename(path, state)
    config = _find_config(path, renamed, geometry)
    model = _fill(path, config, renamed, has_decoder=source == "fpc", original=_originals(source))
    return LoadedModel(model, source, hash_parameters(model.state_dict()), tuple(sorted(unused)))


def save_checkpoint(path: Path, model: FPCModel, extra: Mapping[str, Any] | None = None) -> None:
    """Write our own format: configuration and parameters, readable with `weights_only=True`.

    Args:
        path: where to; the file appears whole or not at all.
        model: what to write.
        extra: further plain values and tensors (a training state).

    Raises:
        CheckpointError: it cannot be written.
    """
    content = {"format": TRAINING_FORMAT, "config": asdict(model.config), "model": model.state_dict(), **(extra or {})}
    try:
        with whole_file(path, CheckpointError) as part:
            torch.save(content, part)
    except RuntimeError as error:  # what torch makes of a full disk
        raise CheckpointError(f"{path} cannot be written, is the disk full? ({first_line(error)})") from error


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the mapping in a checkpoint file, refusing anything but tensors and plain values."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: give the path of a checkpoint (.pth, .pt)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd pickles torch warns before it refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors (or is no checkpoint), and loading it could run code: "
            f"{first_line(error)}; save its state_dict alone"
        ) from error
    except Exception as error:  # a damaged archive surfaces as almost anything
        raise CheckpointError(f"{path} is truncated or not a torch checkpoint: {first_line(error)}") from error
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path} holds no state dict but {type(content).__name__}: save model.state_dict()")
    return content


def hash_parameters(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith("num_batches_tracked"):
            values = state[name].detach().float().contiguous()
            digest.update(f"{name}{tuple(values.shape)}".encode())
            digest.update(values.numpy().data)
    return digest.hexdigest()


def _state_dict(path: Path, content: dict[str, Any]) -> State:
    for nest in ("state_dict", "model", "net"):
        if isinstance(content.get(nest), dict):
            content = content[nest]
    check_names(path, content)
    state = {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no tensors: save model.state_dict()")
    check_tensors(path, state)
    return {key: value.float() for key, value in state.items()}


def _originals(source: SourceFormat) -> dict[str, str]:
    """Our prefixes to the checkpoint's, for messages."""
    names = {"head.block.": "b1.0.", "head.norm.": "b1.1.", "head.bottleneck.": "bottleneck."}
    names |= {"decoder.block.": "rec_b.0.", "decoder.norm.": "rec_b.1.", "decoder.bottleneck.": "rec_bottleneck."}
    names |= {"patch_embed.": "base.patch_embed.proj.", "camera_embed": "base.sie_embed", "blocks.": "base.blocks."}
    return names | {"cls_token": "base.cls_token", "pos_embed": "base.pos_embed"} if source != "fpc-deploy" else {}


def _rename(path: Path, state: State) -> tuple[SourceFormat, State, list[str]]:
    """Give the parameters our names; return also the names that deployment does not use."""
    blocks = {int(match[1]) for key in state if (match := re.match(r"base\.blocks\.(\d{1,4})\.", key))}
    if not blocks:
        near = ", ".join(sorted(state)[:4])
        raise CheckpointError(f"{path} is neither an FPC nor a TransReID checkpoint: no base.blocks.*, but {near}, ...")
    last = max(blocks)
    source: SourceFormat = "fpc" if any(key.startswith("rec_") for key in state) else "transreid"
    own_head = any(key.startswith("b1.") for key in state)
    prefixes = {ours: theirs for ours, theirs in _originals(source).items() if not ours.startswith("blocks.")}
    if not own_head:
        prefixes |= {"head.block.": f"base.blocks.{last}.", "head.norm.": "base.norm."}
    renamed, unused, strange = {}, [], []
    for key, value in state.items():
        target = next((ours + key[len(theirs) :] for ours, theirs in prefixes.items() if _names(theirs, key)), None)
        if target is None and (match := re.match(r"base\.(blocks\.(\d{1,4})\..*)", key)) and int(match[2]) < last:
            target = match[1]
        if UNUSED.fullmatch(key) or (own_head and key.startswith((f"base.blocks.{last}.", "base.norm."))):
            unused.append(key)
        elif target is None:
            strange.append(key)
        else:
            renamed[target] = value.squeeze(1) if target == "camera_embed" and value.dim() == 3 else value
    if strange:
        known = [key for key in state if key not in strange] + [theirs + "weight" for theirs in prefixes.values()]
        raise CheckpointError(f"{path} has parameters that fit nothing: {_with_nearest(strange, known)}")
    return source, renamed, unused


def _names(prefix: str, key: str) -> bool:
    """Whether `key` is what `prefix` stands for: a part of it where it ends in a dot, else the very same."""
    return key.startswith(prefix) if prefix.endswith(".") else key == prefix


def _find_config(path: Path, state: State, geometry: Geometry) -> ModelConfig:
    needed = ("patch_embed.weight", "pos_embed", "head.block.mlp.fc1.weight")
    absent = [key for key in needed if key not in state or state[key].dim() < 2]
    if absent:
        raise CheckpointError(f"{path} misses parameters (or they have no shape): {', '.join(absent)}")
    cameras = state.get("camera_embed")
    if cameras is not None and cameras.dim() != 2:
        raise CheckpointError(
            f"{path}: base.sie_embed is {tuple(cameras.shape)}: it must be (cameras, 1, width), or left out"
        )
    projection = state["patch_embed.weight"]
    width, patch = projection.shape[0], projection.shape[-1]
    if width == BIASLESS_WIDTH and not any(key.endswith("attn.qkv.bias") for key in state):
        raise CheckpointError(
            f"{path} has no attn.qkv.bias at width {width}, as TransReID's vit_small, whose attention (8 heads, scale "
            f"{width}**-0.5) is not supported: train a vit_base or deit_small"
        )
    image_size, stride = _find_geometry(path, state["pos_embed"].shape[1] - 1, patch, geometry)
    return ModelConfig(
        backbone=geometry.backbone or BACKBONES.get(width, "vit_base_patch16_224"),
        embed_dim=width,
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}) + 1,
        heads=geometry.heads or max(1, width // HEAD_WIDTH),
        mlp_ratio=state["head.block.mlp.fc1.weight"].shape[0] / max(1, width),
        qkv_bias="head.block.attn.qkv.bias" in state,
        height=image_size[0],
        width=image_size[1],
        patch_size=patch,
        stride=stride,
        cameras=0 if cameras is None else cameras.shape[0],
    )


def _find_geometry(path: Path, patches: int, patch: int, geometry: Geometry) -> tuple[tuple[int, int], int]:
    fits = []
    for size in (geometry.image_size,) if geometry.image_size else IMAGE_SIZES:
        for stride in (geometry.stride,) if geometry.stride else STRIDES:
            config = replace(ModelConfig(), height=size[0], width=size[1], patch_size=patch, stride=stride)
            if config.patches == patches:
                fits.append((size, stride))
    if len(fits) > 1:
        known = " and ".join(f"{height}x{width} with stride {stride}" for (height, width), stride in fits)
        raise CheckpointError(
            f"{path} has position rows for {patches} patches, which fits {known}: give --image-size and --stride"
        )
    if fits:
        return fits[0]
    asked = f"{geometry.image_size or 'any known size'}, stride {geometry.stride or 'any'}"
    raise CheckpointError(
        f"{path} has position rows for {patches} patches, which fits no crop size and stride tried ({asked}): "
        "give --image-size HxW and --stride"
    )


def _fill(path: Path, config: ModelConfig, state: State, *, has_decoder: bool, original: dict[str, str]) -> FPCModel:
    """Build the model and load `state`; every missing, strange or misshapen name goes into one error."""
    check_config(config, path)
    check_amount(path, config, state)
    model = FPCModel(config, has_decoder=has_decoder)
    own = model.state_dict()
    expected = {key: value for key, value in own.items() if not key.endswith("num_batches_tracked")}

    def theirs(key: str) -> str:
        prefix = next((ours for ours in original if key.startswith(ours)), "")
        return original.get(prefix, prefix) + key[len(prefix) :]

    missing = [theirs(key) for key in expected if key not in state]
    strange = [theirs(key) for key in state if key not in expected and not key.endswith("num_batches_tracked")]
    shapes = [
        f"{theirs(key)} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = []
    if strange:
        problems.append(f"parameters that fit nothing: {_with_nearest(strange, [theirs(key) for key in expected])}")
    if missing:
        problems.append(f"missing parameters: {_shortened(missing)}")
    if shapes:
        problems.append(f"misshapen parameters: {_shortened(shapes)}")
    broken = [theirs(key) for key in expected if key in state and not torch.isfinite(state[key]).all()]
    if broken:
        problems.append(f"parameters with NaN or infinity: {_shortened(broken)}")
    if problems:
        raise CheckpointError(f"{path} does not fit a {config.backbone} of depth {config.depth}: {'; '.join(problems)}")
    model.load_state_dict(state, strict=False)  # strictness is above; only BatchNorm counters may lack
    return model.eval()


def _load_own(path: Path, content: dict[str, Any]) -> LoadedModel:
    state, settings = content.get("model"), content.get("config")
    names = {field.name for field in fields(ModelConfig)}
    if not isinstance(state, dict) or not isinstance(settings, dict) or set(settings) != names:
        raise CheckpointError(f"{path} is a damaged fpc-deploy checkpoint: its config or model is missing")
    check_names(path, state)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is a damaged fpc-deploy checkpoint: its model holds more than tensors")
    check_tensors(path, state)
    if _decoder_untrained(content):
        state = {key: value for key, value in state.items() if not key.startswith("decoder.")}
    has_decoder = any(key.startswith("decoder.") for key in state)
    model = _fill(path, ModelConfig(**settings), state, has_decoder=has_decoder, original={})
    return LoadedModel(model, "fpc-deploy", hash_parameters(model.state_dict()), (), _trained_for(path, content))


def _decoder_untrained(content: dict[str, Any]) -> bool:
    """Whether a training run wrote the file before phase 2: its decoder is random, or of another encoder."""
    training = content.get("training")
    history = training.get("history") if isinstance(training, dict) else None
    return isinstance(history, list) and not any(
        isinstance(line, dict) and line.get("phase") == "decoder" for line in history
    )


def _trained_for(path: Path, content: dict[str, Any]) -> TrainedFor:
    """Read from the recipe of a training run what the model expects; a checkpoint without one was never trained."""
    training = content.get("training")
    recipe = training.get("recipe") if isinstance(training, dict) else None
    if not isinstance(recipe, dict):
        return PUBLISHED
    rate, blocks = recipe.get("keep_rate"), recipe.get("prune_at")
    choices: tuple[DecoderTokens, ...] = get_args(DecoderTokens)
    tokens = next((choice for choice in choices if choice == recipe.get("decoder_tokens")), None)
    if (
        not isinstance(rate, float | int)
        or not 0 < rate <= 1
        or not isinstance(blocks, list)
        or not all(isinstance(block, int) for block in blocks)
        or tokens is None
    ):
        raise CheckpointError(f"{path} is a damaged fpc-deploy checkpoint: its recipe cannot be read")
    return TrainedFor(float(rate), tuple(blocks), tokens)


def _with_nearest(strange: list[str], known: list[str]) -> str:
    """Return `"x (nearest: y), ..."`, at most eight."""
    named = []
    for key in strange[:8]:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        named.append(f"{key} (nearest: {near[0]})" if near else key)
    return _shortened(named, len(strange))


def _shortened(names: list[str], total: int | None = None) -> str:
    total = len(names) if total is None else total
    return ", ".join(names[:8]) + (f" and {total - 8} more" if total > 8 else "")
