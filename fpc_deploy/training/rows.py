"""The head's block for the [cls] row alone, with gradients: all that a loss sees of it."""

import torch
from torch import Tensor

from export.model import Head


def cls_row(head: Head, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `head(tokens)` returns, without computing the rows that nobody reads.

    Keys and values are needed of all tokens; the query, the projection and the MLP of [cls] only. Exact.

    Args:
        head: gallery head or decoder.
        tokens: (B, n, D), [cls] first.

    Returns:
        (B, D) before and (B, D) after the neck.
    """
    block, attention = head.block, head.block.attn
    batch, count, width = tokens.shape
    normed = block.norm1(tokens)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = torch.nn.functional.linear(normed[:, :1], weight[:width], None if bias is None else bias[:width])
    pair = torch.nn.functional.linear(normed, weight[width:], None if bias is None else bias[width:])
    query = query.reshape(batch, 1, attention.num_heads, -1).transpose(1, 2)  # (B, heads, 1, D / heads)
    key, value = pair.reshape(batch, count, 2, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    query, key = attention.q_norm(query), attention.k_norm(key)
    shares = ((query * attention.scale) @ key.transpose(-2, -1)).softmax(dim=-1)  # (B, heads, 1, n)
    mixed = (shares.to(value.dtype) @ value).transpose(1, 2).reshape(batch, 1, width)
    row = tokens[:, :1] + block.drop_path1(block.ls1(attention.proj(mixed)))
    row = row + block.drop_path2(block.ls2(block.mlp(block.norm2(row))))
    before = head.norm(row)[:, 0]
    return before, head.bottleneck(before)
