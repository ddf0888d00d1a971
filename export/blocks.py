"""A block of the encoder as it is deployed: the same answers as timm's, in nodes that inference engines run well.

* queries, keys and values come out of one product and are split along the width, where a split copies whole rows; timm
  moves the axis of the three to the front first, which is one more copy of everything;
* the scale of the attention is part of the weights that make the queries;
* a bias has the rank of what it is added to: ONNX Runtime would fuse a plain one into `BiasGelu`, which takes longer
  than its `Add` and `Gelu` (0.88 against 0.76 ms for 243 x 3072 numbers).

Three products in place of one would save the split, but with INT8 ONNX Runtime (1.32) leaves two of three that share
their input in float32.
"""

from typing import Any

import torch
from torch import Tensor, nn


class BlockGraph(nn.Module):
    """A timm ViT block, in two halves.

    Args:
        block: in eval mode.

    Raises:
        ValueError: the block normalises queries or keys, or what attention mixed, which this form leaves out.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention, mlp = block.attn, block.mlp
        left_out = (attention.q_norm, attention.k_norm, attention.norm, mlp.norm)
        if not all(isinstance(norm, nn.Identity) for norm in left_out):
            raise ValueError("a block that normalises within attention or MLP cannot be rearranged")
        self.heads, width = attention.num_heads, attention.qkv.in_features
        self.width = width
        scale = torch.cat([torch.full((width,), float(attention.scale)), torch.ones(2 * width)])
        self.project = _Product(attention.qkv, scale)
        self.merge, self.widen, self.narrow = (_Product(part) for part in (attention.proj, mlp.fc1, mlp.fc2))
        self.norm1, self.norm2, self.ls1, self.ls2, self.act = block.norm1, block.norm2, block.ls1, block.ls2, mlp.act

    def attend(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, 1 + n, D) tokens after the residual of attention, and (B, heads, 1 + n, 1 + n) its shares."""
        count = tokens.shape[1]
        query, key, value = self.project(self.norm1(tokens)).split(self.width, dim=2)  # (B, 1 + n, D) each
        shape = (-1, count, self.heads, self.width // self.heads)
        scores = query.reshape(shape).transpose(1, 2) @ key.reshape(shape).permute(0, 2, 3, 1)
        shares = scores.softmax(dim=-1)
        mixed = (shares @ value.reshape(shape).transpose(1, 2)).transpose(1, 2).reshape(-1, count, self.width)
        return tokens + self.ls1(self.merge(mixed)), shares

    def feed(self, tokens: Tensor) -> Tensor:
        """Return (B, n, D) tokens after the residual of the MLP."""
        fed: Tensor = tokens + self.ls2(self.narrow(self.act(self.widen(self.norm2(tokens)))))
        return fed


class _Product(nn.Module):
    """`x W + b` of a linear layer, its outputs multiplied by `scale`."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, scale: Tensor | None = None) -> None:
        super().__init__()
        weight = linear.weight.detach()
        bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach()
        if scale is not None:
            weight, bias = weight * scale[:, None], bias * scale
        self.register_buffer("weight", weight.T.contiguous())
        self.register_buffer("bias", bias[None, None])

    def forward(self, tokens: Tensor) -> Tensor:
        product: Tensor = tokens @ self.weight + self.bias
        return product
