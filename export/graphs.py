"""The four graphs of a bundle as torch modules: the model rearranged for deployment, with the same answers.

What differs from `export.model` is here and nowhere else:

* bytes in: cast, layout and normalisation are part of the encoder graphs;
* blocks are rearranged for inference engines (`export.blocks`);
* only the [cls] row of a last block is used, so its keys and values are never formed (`ClsRow`);
* the matcher reads the raw candidate patches once: similarity and weights come out of one matrix product, and the L2
  norms are applied to its result.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from export.blocks import BlockGraph
from export.model import PIXEL_MEAN_STD, DecoderTokens, FPCModel, Head, select_patches, take_patches
from runtime.emd import SINKHORN_REGULARISATION as SINKHORN_REGULARISATION

MASKED = -1e9
"""Added to the score of a padded neighbour, whose softmax weight then underflows to exactly 0."""
LEAST_WEIGHT = 1e-9
"""Of a neighbour that is no padding: the share of one patch at this weight is lost in float32."""
TINY = 1e-30
"""Least denominator of a Sinkhorn step, reached only when every weight of one side is 0; the transport is then 0.
Not added: the exporter takes an addition of 1e-30 for one of 0, and drops it."""

SinkhornWeights = Literal["cls", "mean"]


class ClsRow(nn.Module):
    """What a `Head` makes of `[row; groups...]`, computing its [cls] row alone.

    With q the [cls] query of one head, `q . (Wk x) = (Wk^T q) . x` and `sum_j a_j (Wv x_j) = Wv (sum_j a_j x_j)`. The
    key bias adds the same to every score, which softmax ignores; the value bias is added once, as the shares sum to 1.
    Exact, and for a decoder that reads 2,421 tokens about a hundred times less work.

    Args:
        head: block, norm and neck, in eval mode.

    Raises:
        ValueError: the block normalises queries or keys, which this form cannot express.
    """

    query_weight: Tensor
    query_bias: Tensor
    key_weight: Tensor
    value_weight: Tensor
    value_bias: Tensor
    neck_scale: Tensor
    neck_shift: Tensor

    def __init__(self, head: Head) -> None:
        super().__init__()
        attention: Any = head.block.attn
        neck: Any = head.bottleneck
        if not all(isinstance(norm, nn.Identity) for norm in (attention.q_norm, attention.k_norm, attention.norm)):
            raise ValueError("a block that normalises queries or keys cannot be absorbed")
        heads, width = attention.num_heads, attention.qkv.in_features
        self.heads, self.width = heads, width
        query, key, value = attention.qkv.weight.detach().reshape(3, width, width)
        bias = torch.zeros(3 * width) if attention.qkv.bias is None else attention.qkv.bias.detach()
        query_bias, _, value_bias = bias.reshape(3, width)
        self.register_buffer("query_weight", (query * attention.scale).T.contiguous())  # (D, D)
        self.register_buffer("query_bias", query_bias * attention.scale)
        self.register_buffer("key_weight", key.reshape(heads, width // heads, width).clone())
        self.register_buffer("value_weight", value.reshape(heads, width // heads, width).transpose(1, 2).contiguous())
        self.register_buffer("value_bias", value_bias.clone())
        scale = (neck.weight / (neck.running_var + neck.eps).sqrt()).detach()
        self.register_buffer("neck_scale", scale)
        self.register_buffer("neck_shift", (neck.bias - neck.running_mean * scale).detach())
        self.block, self.norm = head.block, head.norm

    def forward(self, row: Tensor, first: Tensor | None, rest: Tensor, rest_bias: Tensor | None = None) -> Tensor:
        """Return (B, D), after the neck.

        Args:
            row: (B, 1, D), the token at the [cls] position.
            first: (B, m, D) further tokens, or None.
            rest: (B, K, n, D) further tokens, read where they lie.
            rest_bias: added to the scores of `rest`, (B, K, 1, 1).
        """
        near, probe = self.near(row, first)
        far = self.block.norm1(rest)
        # turned here, where it is small: a product whose left side is turned is slow
        scores = (far @ probe.unsqueeze(1)).transpose(2, 3)  # (B, K, heads, n)
        return self.attend(row, near, probe, scores, lambda shares: (shares @ far).sum(1), rest_bias)

    def near(self, row: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the normalised tokens beside the far ones, (B, 1 + m, D), and what scores a token, (B, D, heads)."""
        near = self.block.norm1(row if first is None else torch.cat([row, first], dim=1))
        query = (near[:, :1] @ self.query_weight + self.query_bias).reshape(-1, self.heads, 1, self.width // self.heads)
        return near, (query @ self.key_weight).squeeze(2).transpose(1, 2)

    def attend(
        self,
        row: Tensor,
        near: Tensor,
        probe: Tensor,
        far_scores: Tensor,
        pool: Callable[[Tensor], Tensor],
        rest_bias: Tensor | None,
    ) -> Tensor:
        """Finish the block, (B, D).

        Args:
            row: as in `forward`.
            near: of `self.near`.
            probe: likewise.
            far_scores: (B, K, heads, n).
            pool: makes (B, K, heads, n) shares of the far tokens their weighted sum, (B, heads, D).
            rest_bias: as in `forward`.
        """
        near_scores = near @ probe  # (B, 1 + m, heads)
        if rest_bias is not None:
            far_scores = far_scores + rest_bias
        # one softmax over both groups, spelt out, so that neither has to be reshaped or copied beside the other
        peak = torch.maximum(near_scores.amax(1, keepdim=True), far_scores.amax((1, 3)).unsqueeze(1))  # (B, 1, heads)
        near_shares, far_shares = (near_scores - peak).exp(), (far_scores - peak.unsqueeze(3)).exp()
        total = near_shares.sum(1) + far_shares.sum((1, 3))  # (B, heads)
        mixed = near_shares.transpose(1, 2) @ near + pool(far_shares)  # (B, heads, D)
        mixed = mixed / total.unsqueeze(2)
        values = (mixed.unsqueeze(2) @ self.value_weight).reshape(-1, 1, self.width) + self.value_bias
        out = row + self.block.ls1(self.block.attn.proj(values))
        out = out + self.block.ls2(self.block.mlp(self.block.norm2(out)))
        descriptor: Tensor = self.norm(out).squeeze(1) * self.neck_scale + self.neck_shift
        return descriptor


class EncoderGraph(nn.Module):
    """Crops and cameras in; [cls], patches, descriptor and, from the sparse encoder, kept indices out."""

    place_table: Tensor
    camera_table: Tensor

    def __init__(self, model: FPCModel, keep: dict[int, int], *, sparse: bool) -> None:
        super().__init__()
        self.keep, self.sparse = keep, sparse
        self.patch_embed = model.patch_embed
        self.blocks = nn.ModuleList(BlockGraph(block) for block in model.blocks)
        self.head = ClsRow(model.head)
        self.register_buffer("place_table", model.place_table().detach())
        self.register_buffer("camera_table", model.camera_table().detach())

    def forward(self, crops: Tensor, camera: Tensor) -> tuple[Tensor, ...]:
        """Encode (B, H, W, 3) uint8 crops of (B,) int64 cameras.

        Returns:
            cls (B, D), patches (B, P, D), descriptor (B, D), and of the sparse encoder kept (B, P) int64.
        """
        # cast first: TensorRT takes a uint8 input only straight into a Cast; mean / std is 1
        pixels = crops.to(torch.float32).permute(0, 3, 1, 2) * (1 / (255 * PIXEL_MEAN_STD)) - 1.0
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)  # (B, N, D)
        tokens = nn.functional.pad(patches, (0, 0, 1, 0)) + self.place_table + self.camera_table[camera].unsqueeze(1)
        tokens, kept = self._run_blocks(tokens)
        row, alive = tokens[:, :1], tokens[:, 1:]
        answers = (row.squeeze(1), alive, self.head(row, None, alive.unsqueeze(1)))
        if not self.sparse:
            return answers
        return (*answers, torch.arange(alive.shape[1]).expand(alive.shape[0], -1) if kept is None else kept)

    def _run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the token memory and, where a block pruned, the place of each patch; as `FPCModel.run_blocks`."""
        kept: Tensor | None = None
        block: Any  # a module list gives modules
        for depth, block in enumerate(self.blocks):
            tokens, shares = block.attend(tokens)
            if depth in self.keep:
                index = select_patches(shares[:, :, 0, 1:].mean(dim=1), self.keep[depth], "attention")
                kept = index if kept is None else kept.gather(1, index)
                tokens = torch.cat([tokens[:, :1], take_patches(tokens[:, 1:], index)], dim=1)  # (B, 1 + keep, D)
            tokens = block.feed(tokens)
        return tokens, kept


class MatcherGraph(nn.Module):
    """Earth Mover's Distance between a query and its candidates by a fixed number of Sinkhorn steps."""

    def __init__(self, iterations: int, weights: SinkhornWeights) -> None:
        super().__init__()
        self.iterations, self.weights = iterations, weights

    def forward(
        self, query_cls: Tensor, query_patches: Tensor, candidate_cls: Tensor, candidate_patches: Tensor
    ) -> Tensor:
        """Return (B, C) distances; see design section 4 for the formula.

        Args:
            query_cls: (B, D).
            query_patches: (B, M, D), not normalised.
            candidate_cls: (B, C, D).
            candidate_patches: (B, C, N, D), not normalised.
        """
        query = query_patches * _inverse_norm(query_patches)
        inverse = _inverse_norm(candidate_patches)  # (B, C, N, 1)
        if self.weights == "cls":
            query_centre = query_cls * _inverse_norm(query_cls)
            candidate_centre = candidate_cls * _inverse_norm(candidate_cls)
        else:
            query_centre = query.mean(dim=1)
            candidate_centre = (inverse.transpose(2, 3) @ candidate_patches).squeeze(2)  # scaled below
        # The query's centre rides along as one more column, so that the candidates are read once. It stays in the
        # kernel, where it demands nothing: cutting it off would copy everything else.
        probe = torch.cat([query, query_centre.unsqueeze(1)], dim=1).transpose(1, 2).unsqueeze(1)
        scores = (candidate_patches @ probe) * (inverse / SINKHORN_REGULARISATION)  # (B, C, N, M + 1)
        supply = _scaled(scores[..., -1].relu() * SINKHORN_REGULARISATION, dim=2).unsqueeze(2)  # (B, C, 1, N)
        demand = _scaled((candidate_centre @ query.transpose(1, 2)).relu(), dim=2).unsqueeze(2)  # (B, C, 1, M)
        demand = nn.functional.pad(demand, (0, 1))
        kernel = (scores - 1 / SINKHORN_REGULARISATION).exp()
        across = kernel.transpose(2, 3)
        start = nn.functional.pad(torch.ones(query_patches.shape[1]), (0, 1)).reshape(1, 1, 1, -1)
        row = supply / (start @ across).clamp_min(TINY)
        column = demand / (row @ kernel).clamp_min(TINY)
        for _ in range(self.iterations - 1):
            row = supply / (column @ across).clamp_min(TINY)
            column = demand / (row @ kernel).clamp_min(TINY)
        moved = (row @ (kernel * scores) * column).sum(dim=3).squeeze(2) * SINKHORN_REGULARISATION  # (B, C)
        distance: Tensor = 1 - moved
        return distance


def _inverse_norm(vectors: Tensor) -> Tensor:
    # 1e-12: as in torch.nn.functional.normalize, for a vector of zeros
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return norm.clamp_min(1e-12).reciprocal()


def _scaled(weights: Tensor, dim: int) -> Tensor:
    # 1e-7: as in the published code, keeps a side without any positive weight at 0
    return weights / (weights.sum(dim=dim, keepdim=True) + 1e-7)


class DecoderGraph(nn.Module):
    """Rebuilds a query's descriptor from its K nearest gallery neighbours; padded neighbours are masked."""

    def __init__(self, decoder: Head, tokens: DecoderTokens) -> None:
        super().__init__()
        self.row, self.tokens = ClsRow(decoder), tokens

    def forward(
        self,
        neighbour_cls: Tensor,
        neighbour_patches: Tensor,
        neighbour_mask: Tensor,
        query_cls: Tensor | None = None,
        query_patches: Tensor | None = None,
    ) -> Tensor:
        """Return the (B, D) consolidated descriptor.

        Args:
            neighbour_cls: (B, K, D).
            neighbour_patches: (B, K, N, D).
            neighbour_mask: (B, K) float32 weights, 1 for the nearest neighbour, 0 for padding; at least one 1 a query.
            query_cls: (B, D), for decoder tokens "query+gallery" only.
            query_patches: (B, M, D), likewise.
        """
        row, bias = neighbour_row(neighbour_cls, neighbour_mask, query_cls)
        descriptor: Tensor = self.row(row, query_patches, neighbour_patches, bias)
        return descriptor


def neighbour_row(neighbour_cls: Tensor, neighbour_mask: Tensor, query_cls: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the token at the decoder's [cls] position, (B, 1, D), and what is added to scores, (B, K, 1, 1).

    A weight w enters the mean of the [cls] as it is and the softmax over patches as log w: the same neighbour twice at
    weight 0.5 is that neighbour once.
    """
    total: Any = neighbour_mask.unsqueeze(1) @ neighbour_cls
    members = neighbour_mask.sum(dim=1, keepdim=True).unsqueeze(2)
    if query_cls is not None:
        total, members = total + query_cls.unsqueeze(1), members + 1
    padding = 1 - (neighbour_mask / LEAST_WEIGHT).clamp_max(1)
    bias = neighbour_mask.clamp_min(LEAST_WEIGHT).log() + padding * MASKED
    return total / members, bias.unsqueeze(2).unsqueeze(3)
