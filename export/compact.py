"""Matcher and decoder over the bytes of a compact gallery (see `runtime.gallery.codecs`), for the CPU.

A token there is `norm * scale * basis @ (codes - 128)`, the basis orthonormal. So a product with a token is one with
its bytes, and nothing brings a token back to its full length:

* the matcher multiplies bytes by bytes (`MatMulInteger`), four to eight times as fast as float32, and its input is a
  quarter to an eighth as large as that of the float matcher;
* the decoder's LayerNorm follows from the sum and the sum of squares of the bytes, inside the products.
"""

from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from export.graphs import SINKHORN_REGULARISATION, ClsRow, SinkhornWeights, neighbour_row
from export.model import DecoderTokens, Head
from export.tracing import OPSET
from runtime.emd import FINE_STEP
from runtime.gallery.codecs import ZERO_CODE

_IR_VERSION = 10
_TINY = 1e-20
"""As `export.graphs.TINY`, for a kernel e^20 times as large: it leaves out the -1 of `exp((S - 1) / 0.05)`, which
cancels out, and so saves a pass."""


def compact_matcher(kept: int, iterations: int, weights: SinkhornWeights) -> ModelProto:
    """Make the EMD between one query and C candidates.

    Inputs: `query_codes` (R, M + 3) int8, `query_scale` (1), `query_ratio` (1) and `query_share` (1, 1, M + 3) float32,
    see `runtime.emd.CodedQuery`; `candidate_codes` (C, N, R) uint8; `candidate_scales` (C, N, 1) float32; and,
    for weights "cls", `query_affinity` (C, 1, M) float32, cosine of each query patch with the candidate's [cls].
    Output: `emd` (C).

    Args:
        kept: M, patches of a query.
        iterations: steps of Sinkhorn.
        weights: as in `export.graphs.MatcherGraph`.
    """
    affinity = f"float[C,1,{kept}] query_affinity" if weights == "cls" else ""
    columns = kept + 3
    inputs = f"int8[R,{columns}] query_codes, float[1] query_scale, float[1] query_ratio, "
    inputs += f"float[1,1,{columns}] query_share, uint8[C,N,R] candidate_codes, "
    inputs += ", ".join(filter(None, ["float[C,N,1] candidate_scales", affinity]))
    text = f"""<ir_version: {_IR_VERSION}, opset_import: ["": {OPSET}]>
    compact_matcher ({inputs}) => (float[C] emd)
    <uint8 zero = {{{ZERO_CODE}}}, float sharpness = {{{1 / SINKHORN_REGULARISATION}}}, float tiny = {{{_TINY}}},
     float[1] regularisation = {{{SINKHORN_REGULARISATION}}}, float one = {{1.0}}, float floor = {{1e-7}},
     int64[1] last_axis = {{2}}, int64[1] rows_axis = {{1}}, int64[2] both_axes = {{1, 2}}, int64 centre = {{{kept}}},
     int64[1] begin = {{0}}, int64[1] end = {{{kept}}}, int64[6] others = {{0, 0, 0, 0, 0, 3}},
     int64[1] coarse = {{{kept + 1}}}, int64[1] fine = {{{kept + 2}}}, float fine_step = {{{FINE_STEP}}},
     float[1,1,{columns}] start = {{{", ".join(["1"] * kept + ["0"] * 3)}}}>
    {{
        products = MatMulInteger(candidate_codes, query_codes, zero)
        values = Cast<to = {onnx.TensorProto.FLOAT}>(products)
        step = Mul(query_scale, sharpness)
        steps = Mul(candidate_scales, step)
        apart = Mul(values, steps)
        high = Gather<axis = 2>(apart, coarse)
        low = Gather<axis = 2>(apart, fine)
        low_part = Mul(low, fine_step)
        common_apart = Add(high, low_part)
        common = Mul(common_apart, query_ratio)
        shared = Mul(common, query_share)
        scores = Add(apart, shared)
        across_scores = Gather<axis = 2>(scores, centre)
        positive = Relu(across_scores)
        weights = Mul(positive, regularisation)
        {_scaled("supply_row", "weights", "rows_axis")}
        supply = Unsqueeze(supply_row, rows_axis)
        {_demand(weights)}
        demand = Pad(demand_patches, others)
        kernel = Exp(scores)
        across = Transpose<perm = [0, 2, 1]>(kernel)
        {_sinkhorn(iterations)}
        work = Mul(kernel, scores)
        carried = MatMul(row_{iterations - 1}, work)
        moved = Mul(carried, column_{iterations - 1})
        total = ReduceSum<keepdims = 0>(moved, both_axes)
        share = Mul(total, regularisation)
        emd = Sub(one, share)
    }}"""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model


def _scaled(name: str, of: str, axis: str) -> str:
    # 1e-7: as in `export.graphs`
    return f"""{name}_sum = ReduceSum<keepdims = 1>({of}, {axis})
        {name}_floored = Add({name}_sum, floor)
        {name} = Div({of}, {name}_floored)"""


def _demand(weights: SinkhornWeights) -> str:
    """Lines that make `demand_patches` (C, 1, M)."""
    if weights == "cls":
        return "wanted = Relu(query_affinity)\n        " + _scaled("demand_patches", "wanted", "last_axis")
    # the product with the mean of the candidate's patches is the mean of the products
    return f"""mean_scores = ReduceMean<keepdims = 1>(scores, rows_axis)
        mean_patches = Slice(mean_scores, begin, end, last_axis)
        mean_positive = Relu(mean_patches)
        wanted = Mul(mean_positive, regularisation)
        {_scaled("demand_patches", "wanted", "last_axis")}"""


def _sinkhorn(iterations: int) -> str:
    """Lines of the iterations; vectors lie along the last axis, so that none is copied to be turned."""
    lines = []
    for step in range(iterations):
        before = f"column_{step - 1}" if step else "start"
        lines += [
            f"row_sum_{step} = MatMul({before}, across)",
            f"row_safe_{step} = Add(row_sum_{step}, tiny)",
            f"row_{step} = Div(supply, row_safe_{step})",
            f"column_sum_{step} = MatMul(row_{step}, kernel)",
            f"column_safe_{step} = Add(column_sum_{step}, tiny)",
            f"column_{step} = Div(demand, column_safe_{step})",
        ]
    return "\n        ".join(lines)


class CompactDecoderGraph(nn.Module):
    """`export.graphs.DecoderGraph` over the bytes of its neighbours' tokens."""

    def __init__(self, decoder: Head, tokens: DecoderTokens) -> None:
        super().__init__()
        self.row, self.tokens = ClsRow(decoder), tokens

    def forward(
        self,
        neighbour_cls: Tensor,
        neighbour_codes: Tensor,
        neighbour_scales: Tensor,
        neighbour_mask: Tensor,
        basis: Tensor,
        query_cls: Tensor | None = None,
        query_patches: Tensor | None = None,
    ) -> Tensor:
        """Return the (B, D) consolidated descriptor.

        Args:
            neighbour_cls: (B, K, D).
            neighbour_codes: (B, K, N, R) uint8.
            neighbour_scales: (B, K, N, 1) float32, length of a step of the bytes: scale * norm.
            neighbour_mask: (B, K) float32; see `DecoderGraph`.
            basis: (D, R) float32 with orthonormal columns.
            query_cls: (B, D), for decoder tokens "query+gallery" only.
            query_patches: (B, M, D), likewise.
        """
        row, bias = neighbour_row(neighbour_cls, neighbour_mask, query_cls)
        near, probe = self.row.near(row, query_patches)
        norm: Any = self.row.block.norm1
        width, rank = basis.shape
        codes = neighbour_codes.to(torch.float32)  # (B, K, N, R), 128 too large: taken off the products
        scaled_probe = norm.weight.unsqueeze(1) * probe  # (B, D, heads)
        in_basis = basis.transpose(0, 1) @ scaled_probe  # (B, R, heads)
        ones = in_basis[..., :1] * 0 + 1
        columns = torch.cat([in_basis, ones * basis.mean(dim=0).unsqueeze(1), ones], dim=2)  # (B, R, heads + 2)
        # The codes are read once for all of them. Turned here, where it is small: tokens lie along the last axis below.
        products = (codes @ columns.unsqueeze(1)).transpose(2, 3)  # (B, K, heads + 2, N)
        sums, steps = products[:, :, -1:], neighbour_scales.transpose(2, 3)  # (B, K, 1, N)
        products = (products[:, :, :-1] - ZERO_CODE * columns[..., :-1].sum(dim=1).unsqueeze(1).unsqueeze(3)) * steps
        scores, mean = products[:, :, :-1], products[:, :, -1:]
        squares = ((codes * codes) @ torch.ones(rank, 1)).transpose(2, 3)
        squares = squares - (2 * ZERO_CODE) * sums + ZERO_CODE**2 * rank
        variance = squares * steps * steps / width - mean * mean
        inverse = (variance.clamp_min(0) + norm.eps).rsqrt()  # (B, K, 1, N)
        slope, offset = scaled_probe.sum(dim=1), (norm.bias.unsqueeze(1) * probe).sum(dim=1)  # (B, heads)
        scores = (scores - mean * slope.unsqueeze(1).unsqueeze(3)) * inverse + offset.unsqueeze(1).unsqueeze(3)

        def pool(shares: Tensor) -> Tensor:
            shrunk = shares * inverse  # (B, K, heads, N)
            stepped = shrunk * steps
            coordinates = (stepped @ codes).sum(1) - ZERO_CODE * stepped.sum((1, 3)).unsqueeze(2)  # (B, heads, R)
            tokens = coordinates @ basis.transpose(0, 1) - (shrunk * mean).sum((1, 3)).unsqueeze(2)
            pooled: Tensor = tokens * norm.weight + norm.bias * shares.sum((1, 3)).unsqueeze(2)
            return pooled

        return self.row.attend(row, near, probe, scores, pool, bias)
