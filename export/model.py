"""FPC in torch: the sparse encoder, its [cls] head and the consolidation decoder, on the blocks of a timm ViT.

This is the plain form, in the paper's own terms: it is what training runs and what every exported graph is proved
against. Tricks for deployment live in `export.graphs`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

PIXEL_MEAN_STD = 0.5
"""Mean and standard deviation of every channel, full scale being 1 (`PIXEL_MEAN`, `PIXEL_STD` of the FPC config)."""

DecoderTokens = Literal["gallery", "query+gallery"]
DropStrategy = Literal["attention", "random", "inverse"]


@dataclass(frozen=True)
class ModelConfig:
    """Size and geometry of an FPC model.

    Attributes:
        backbone: timm model whose blocks are used; the fields below override its own.
        embed_dim: width D of a token.
        depth: number of blocks, the head's (the twelfth of a ViT-B) included.
        heads: attention heads.
        mlp_ratio: hidden width of a block's MLP over D.
        qkv_bias: whether query, key and value projections have a bias.
        height: of a crop, in pixels.
        width: of a crop, in pixels.
        patch_size: side of a patch, in pixels.
        stride: step from patch to patch, in pixels; less than `patch_size` makes patches overlap.
        cameras: rows of the camera embedding; 0 for a model without one.
        camera_coefficient: factor of the camera embedding (`SIE_COE`, 3.0 in the published FPC and TransReID configs).
    """

    backbone: str = "vit_base_patch16_224"
    embed_dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    height: int = 256
    width: int = 128
    patch_size: int = 16
    stride: int = 11
    cameras: int = 0
    camera_coefficient: float = 3.0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        return (
            (self.height - self.patch_size) // self.stride + 1,
            (self.width - self.patch_size) // self.stride + 1,
        )

    @property
    def patches(self) -> int:
        """Number of patches N."""
        rows, columns = self.grid
        return rows * columns


def keep_counts(patches: int, keep_rate: float, prune_at: Sequence[int]) -> dict[int, int]:
    """Return {block: patches that survive it}: `ceil(keep_rate * alive)` at each block (paper section 3.1).

    With 242 patches, keep rate 0.8 and blocks 3, 6, 9: {3: 194, 6: 156, 9: 125}. A keep rate of 1 prunes nowhere.
    """
    counts, alive = {}, patches
    for block in sorted(prune_at) if keep_rate < 1 else ():
        # 1e-9: 0.7 * 10 is 7.000000000000001 in binary, which must stay 7
        alive = max(1, math.ceil(keep_rate * alive - 1e-9))
        counts[block] = alive
    return counts


def create_blocks(config: ModelConfig, count: int) -> nn.ModuleList:
    """Return `count` blocks of the timm ViT that `config` names, initialised by timm."""
    vit: Any = timm.create_model(
        config.backbone,
        pretrained=False,
        num_classes=0,
        embed_dim=config.embed_dim,
        depth=count,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=config.qkv_bias,
    )
    blocks: nn.ModuleList = vit.blocks
    return nn.ModuleList(blocks)


def attend(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Run a timm `Attention` and return also what [cls] pays to each patch.

    Args:
        attention: the timm module whose weights are used.
        tokens: (B, 1 + n, D), normalised.

    Returns:
        (B, 1 + n, D) output, and (B, n) attention weight of [cls] on each patch, averaged over heads.
    """
    batch, count, width = tokens.shape
    qkv = attention.qkv(tokens).reshape(batch, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)  # each (B, heads, 1 + n, D / heads)
    query, key = attention.q_norm(query), attention.k_norm(key)
    weights = ((query * attention.scale) @ key.transpose(-2, -1)).softmax(dim=-1)  # (B, heads, 1 + n, 1 + n)
    mixed = (weights @ value).transpose(1, 2).reshape(batch, count, width)
    return attention.proj(mixed), weights[:, :, 0, 1:].mean(dim=1)


def select_patches(attention: Tensor, keep: int, drop: DropStrategy) -> Tensor:
    """Return (B, keep) int64 indices of the patches that stay, best first.

    Args:
        attention: (B, n) weight of [cls] on each patch.
        keep: how many stay.
        drop: "attention" drops the least attended (the method); "random" and "inverse" (the most attended) are the
            comparisons of the paper's fig. 5.
    """
    if drop == "random":
        attention = torch.rand_like(attention)
    return torch.topk(attention, keep, dim=1, largest=drop != "inverse", sorted=True).indices


def take_patches(patches: Tensor, index: Tensor) -> Tensor:
    """Return (B, k, D): of (B, n, D) `patches` the rows named by (B, k) `index`."""
    return torch.gather(patches, 1, index.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))


class Head(nn.Module):
    """A last block with LayerNorm and BatchNorm: makes one descriptor of a sequence of tokens.

    The gallery head (`b1`, `bottleneck` in the authors' naming) and the decoder (`rec_b`, `rec_bottleneck`) are two.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.block: Any = create_blocks(config, 1)[0]
        self.norm = nn.LayerNorm(config.embed_dim, eps=1e-6)  # eps of the published ViT
        self.bottleneck = nn.BatchNorm1d(config.embed_dim)
        self.bottleneck.bias.requires_grad_(False)  # as published: the neck has no shift

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the [cls] of (B, n, D) tokens before and after the BatchNorm neck, each (B, D).

        Training puts the triplet loss on the first and the classifier on the second; the second is the descriptor.
        """
        before = self.norm(self.block(tokens))[:, 0]
        return before, self.bottleneck(before)


@dataclass(frozen=True)
class Encoded:
    """Token memory of B crops.

    Attributes:
        tokens: (B, 1 + P, D), [cls] first, before any norm.
        kept: (B, P) int64 index of each patch in the row-major patch grid.
        kept_at: {block: (B, k) int64 index into the patches alive at that block}.
        attention_at: {block: (B, n) weight of [cls] on each patch alive before that block}.
    """

    tokens: Tensor
    kept: Tensor
    kept_at: dict[int, Tensor]
    attention_at: dict[int, Tensor]


class FPCModel(nn.Module):
    """Shared blocks with pruning, a gallery head, and a decoder unless the checkpoint has none.

    Args:
        config: size and geometry.
        has_decoder: False for TransReID checkpoints.
    """

    def __init__(self, config: ModelConfig, *, has_decoder: bool = True) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        self.patch_embed = nn.Conv2d(3, width, config.patch_size, config.stride)
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + config.patches, width), std=0.02))
        self.camera_embed = (
            nn.Parameter(nn.init.trunc_normal_(torch.empty(config.cameras, width), std=0.02))
            if config.cameras
            else None
        )
        self.blocks: Any = create_blocks(config, config.depth - 1)
        self.head = Head(config)
        self.decoder = Head(config) if has_decoder else None

    def camera_table(self) -> Tensor:
        """Return (cameras + 1, D), what a camera adds to a token.

        The last row, the mean of the trained ones, stands for an unknown camera.
        """
        if self.camera_embed is None:
            return self.cls_token.new_zeros(1, self.config.embed_dim)
        rows = torch.cat([self.camera_embed, self.camera_embed.mean(dim=0, keepdim=True)])
        return self.config.camera_coefficient * rows

    def place_table(self) -> Tensor:
        """Return (1, 1 + N, D), what a place adds to a token: the position row and, at place 0, [cls] itself."""
        return self.pos_embed + nn.functional.pad(self.cls_token, (0, 0, 0, self.config.patches))

    def embed(self, pixels: Tensor, camera: Tensor) -> Tensor:
        """Return (B, 1 + N, D) input tokens: `[cls; patches] + pos_embed + coefficient * camera_embed[camera]`.

        Args:
            pixels: (B, 3, H, W) float, normalised.
            camera: (B,) int64; `config.cameras` means unknown.
        """
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)  # (B, N, D), row-major over the grid
        # a zero row where [cls] goes, filled by the sum: needs no expand over the batch
        tokens = nn.functional.pad(patches, (0, 0, 1, 0))  # (B, 1 + N, D)
        return tokens + self.place_table() + self.camera_table()[camera].unsqueeze(1)

    def encode(self, pixels: Tensor, camera: Tensor, keep: dict[int, int], drop: DropStrategy = "attention") -> Encoded:
        """Make the token memory of crops.

        Args:
            pixels: (B, 3, H, W) float, normalised.
            camera: (B,) int64; `config.cameras` means unknown.
            keep: {block: patches that survive}, see `keep_counts`; empty for the dense encoder.
            drop: which patches go.
        """
        return self.run_blocks(self.embed(pixels, camera), keep, drop)

    def run_blocks(self, tokens: Tensor, keep: dict[int, int], drop: DropStrategy = "attention") -> Encoded:
        """Run the shared blocks on (B, 1 + N, D), pruning after the attention residual of each block in `keep`."""
        kept_at: dict[int, Tensor] = {}
        attention_at: dict[int, Tensor] = {}
        kept: Tensor | None = None
        for depth, block in enumerate(self.blocks):
            if depth not in keep:
                tokens = block(tokens)
                continue
            mixed, attention = attend(block.attn, block.norm1(tokens))
            tokens = tokens + block.drop_path1(block.ls1(mixed))
            attention_at[depth] = attention.detach()
            index = select_patches(attention_at[depth], keep[depth], drop)
            kept_at[depth], kept = index, index if kept is None else kept.gather(1, index)
            tokens = torch.cat([tokens[:, :1], take_patches(tokens[:, 1:], index)], dim=1)  # (B, 1 + keep, D)
            tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        if kept is None:
            kept = torch.arange(self.config.patches, device=tokens.device).expand(tokens.shape[0], -1)
        return Encoded(tokens, kept, kept_at, attention_at)

    def consolidate(
        self,
        neighbour_cls: Tensor,
        neighbour_patches: Tensor,
        query_cls: Tensor | None = None,
        query_patches: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rebuild the query from its K nearest gallery neighbours by one full block (paper eq. 11 and 12).

        As published for inference the decoder sees `[mean of the neighbours' cls; all their patches]`. With the query
        given, its [cls] joins the mean and its patches join the sequence, as eq. 11 has it.

        Args:
            neighbour_cls: (B, K, D).
            neighbour_patches: (B, K, N, D).
            query_cls: (B, D) or None.
            query_patches: (B, M, D) or None.

        Returns:
            (B, D) before and (B, D) after the BatchNorm neck; the second is the consolidated descriptor.
        """
        if self.decoder is None:
            raise ValueError("this model has no decoder")
        members, patches = neighbour_cls, neighbour_patches.flatten(1, 2)
        if query_cls is not None and query_patches is not None:
            members = torch.cat([query_cls.unsqueeze(1), members], dim=1)
            patches = torch.cat([query_patches, patches], dim=1)
        consolidated: tuple[Tensor, Tensor] = self.decoder(torch.cat([members.mean(1, keepdim=True), patches], dim=1))
        return consolidated


def normalise(crops: Tensor) -> Tensor:
    """Return (B, 3, H, W) float32 in -1..1 of (B, H, W, 3) uint8 RGB crops."""
    return (crops.float().permute(0, 3, 1, 2) / 255 - PIXEL_MEAN_STD) / PIXEL_MEAN_STD
