"""Matcher and decoder over the bytes of a compact gallery (see `runtime.gallery.codecs`), for the CPU.

A token there is `norm * scale * basis @ (codes - 128)`, the basis orthonormal. So a product with a token is one with
its bytes, and nothing brings a token back to its full length:

* the matcher multiplies bytes by bytes (`MatMulInteger`), four to eight times as fast as float32, and its input is a
  quarter to an eighth as large as that of the float matcher;
* the decoder multiplies them by what it asks of a token and by what it takes of it, each in two bytes a number; its
  LayerNorm follows from the products with the basis' mean and from the norms.
"""

from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from export.graphs import SINKHORN_REGULARISATION, ClsRow, SinkhornWeights, neighbour_row
from export.model import DecoderTokens, Head
from export.tracing import OPSET
from runtime.emd import LEAST_MASS
from runtime.gallery.codecs import ZERO_CODE

_IR_VERSION = 10
_COLUMN_STEPS = 63
"""Steps of a column on either side of 0, see `runtime.emd`; a second byte has 126 steps within one of the first."""
_WEIGHT_STEPS = 255
_LEAST_STEP = 1e-30
_FLOOR = 1e-7  # as in the published code: a side without any positive weight stays at 0


def compact_matcher(kept: int, iterations: int, weights: SinkhornWeights) -> ModelProto:
    """Make the EMD between one query and C candidates.

    Inputs: `query_codes` (R, M + 3) int8 and `query_mix` (3, 2) float32, see `runtime.emd.CodedQuery`;
    `candidate_codes` (C, N, R) uint8; `candidate_steps` (C * N,) float32, length of a step of a token's bytes times
    that of the query's, over the regularisation; and, for weights "cls", `demand` (C, 1, M + 3) float32, see
    `runtime.emd.demand_of`.
    Output: `emd` (C).

    Sinkhorn does not change where a row of its kernel is multiplied by a number. So the kernel is that of the products
    without the query's mean, which is the same for a whole row; its part in the cost is added in the end.

    Args:
        kept: M, patches of a query.
        iterations: steps of Sinkhorn.
        weights: as in `export.graphs.MatcherGraph`.
    """
    columns = kept + 3
    inputs = f"int8[R,{columns}] query_codes, float[3,2] query_mix, uint8[C,N,R] candidate_codes, "
    inputs += "float[rows] candidate_steps" + (f", float[C,1,{columns}] demand" if weights == "cls" else "")
    last = iterations - 1
    text = f"""<ir_version: {_IR_VERSION}, opset_import: ["": {OPSET}]>
    compact_matcher ({inputs}) => (float[C] emd)
    <uint8 zero = {{{ZERO_CODE}}}, float regularisation = {{{SINKHORN_REGULARISATION}}}, float one = {{1.0}},
     float floor = {{{_FLOOR / SINKHORN_REGULARISATION}}}, float least = {{{LEAST_MASS}}},
     int64[2] flat = {{-1, {columns}}}, int64[1] all = {{-1}}, int64[1] rows_axis = {{1}},
     int64[1] last_axis = {{2}}, int64[2] both_axes = {{1, 2}},
     int64[1] begin = {{{kept}}}, int64[1] end = {{{columns}}}, int64[2] one_each = {{1, 1}},
     float[1,1,{columns}] patches = {{{", ".join(["1"] * kept + ["0"] * 3)}}}>
    {{
        products = MatMulInteger(candidate_codes, query_codes, zero)
        shape = Shape(products)
        lines = Reshape(products, flat)
        stepped = DequantizeLinear<axis = 0>(lines, candidate_steps)
        scores = Reshape(stepped, shape)
        ends = Slice(scores, begin, end, last_axis)
        mixed = MatMul(ends, query_mix)
        turned = Transpose<perm = [0, 2, 1]>(mixed)
        centre, mean = Split<axis = 1>(turned, one_each)
        {_weights("supply", "centre", "least")}
        {"" if weights == "cls" else _mean_demand()}
        kernel = Exp(scores)
        across = Transpose<perm = [0, 2, 1]>(kernel)
        {_sinkhorn(iterations)}
        work = Mul(kernel, scores)
        carried = MatMul(row_{last}, work)
        lifted = Mul(row_{last}, mean)
        carried_mean = MatMul(lifted, kernel)
        carried_whole = Add(carried, carried_mean)
        moved = Mul(carried_whole, column_{last})
        total = ReduceSum<keepdims = 0>(moved, both_axes)
        {_counted(weights)}
        share = Mul(counted, regularisation)
        emd = Sub(one, share)
    }}"""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model


def _weights(name: str, of: str, least: str) -> str:
    """Lines that make a side's weights, (C, 1, n), of its cosines, and `{name}_sum`, 0 where no cosine is positive."""
    return f"""{name}_positive = Relu({of})
        {name}_sum = ReduceSum<keepdims = 1>({name}_positive, last_axis)
        {name}_lifted = Add({name}_positive, {least})
        {name}_total = ReduceSum<keepdims = 1>({name}_lifted, last_axis)
        {name} = Div({name}_lifted, {name}_total)"""


def _mean_demand() -> str:
    """Lines that make `demand`: the product with the mean of the candidate's patches is the mean of the products."""
    return f"""mean_scores = ReduceMean<keepdims = 1>(scores, rows_axis)
        mean_mean = ReduceMean<keepdims = 1>(mean, last_axis)
        mean_products = Add(mean_scores, mean_mean)
        mean_patches = Mul(mean_products, patches)
        least_patches = Mul(patches, least)
        {_weights("demand", "mean_patches", "least_patches")}"""


def _counted(weights: SinkhornWeights) -> str:
    """Lines that make `counted` of `total`: a side without any weight moves nothing."""
    lines = """supplied = Sign(supply_sum)
        any_supply = Reshape(supplied, all)
        """
    if weights == "cls":  # of demand its maker takes care
        return lines + "counted = Mul(total, any_supply)"
    lines += """floored = Add(demand_sum, floor)
        mass = Div(demand_sum, floored)
        all_mass = Reshape(mass, all)
        supplied_total = Mul(total, any_supply)
        counted = Mul(supplied_total, all_mass)"""
    return lines


def _sinkhorn(iterations: int) -> str:
    """Lines of the iterations; vectors lie along the last axis, so that none is copied to be turned."""
    lines = []
    for step in range(iterations):
        before = f"column_{step - 1}" if step else "patches"
        lines += [
            f"row_sum_{step} = MatMul({before}, across)",
            f"row_{step} = Div(supply, row_sum_{step})",
            f"column_sum_{step} = MatMul(row_{step}, kernel)",
            f"column_{step} = Div(demand, column_sum_{step})",
        ]
    return "\n        ".join(lines)


class CompactDecoderGraph(nn.Module):
    """`export.graphs.DecoderGraph` over the bytes of its neighbours' tokens, read twice and never as floats."""

    def __init__(self, decoder: Head, tokens: DecoderTokens) -> None:
        super().__init__()
        self.row, self.tokens = ClsRow(decoder), tokens

    def forward(
        self,
        neighbour_cls: Tensor,
        neighbour_codes: Tensor,
        neighbour_steps: Tensor,
        neighbour_norms: Tensor,
        neighbour_mask: Tensor,
        basis: Tensor,
        query_cls: Tensor | None = None,
        query_patches: Tensor | None = None,
    ) -> Tensor:
        """Return the (B, D) consolidated descriptor.

        Args:
            neighbour_cls: (B, K, D).
            neighbour_codes: (B, K, N, R) uint8.
            neighbour_steps: (B, K, 1, N) float32, length of a step of the bytes: scale * norm.
            neighbour_norms: (B, K, 1, N) float32, length of the tokens.
            neighbour_mask: (B, K) float32; see `DecoderGraph`.
            basis: (D, R) float32 with orthonormal columns.
            query_cls: (B, D), for decoder tokens "query+gallery" only.
            query_patches: (B, M, D), likewise.
        """
        row, bias = neighbour_row(neighbour_cls, neighbour_mask, query_cls)
        near, probe = self.row.near(row, query_patches)
        norm: Any = self.row.block.norm1
        width = basis.shape[0]
        scaled_probe = norm.weight.unsqueeze(1) * probe  # (B, D, heads)
        in_basis = basis.transpose(0, 1) @ scaled_probe  # (B, R, heads)
        mean_column = in_basis[..., :1] * 0 + basis.mean(dim=0).unsqueeze(1)
        columns = torch.cat([in_basis, mean_column], dim=2).unsqueeze(1)  # (B, 1, R, heads + 1)
        products = _products(neighbour_codes, columns).transpose(2, 3) * neighbour_steps  # (B, K, heads + 1, N)
        scores, mean = products[:, :, :-1], products[:, :, -1:]
        variance = neighbour_norms * neighbour_norms / width - mean * mean
        inverse = (variance.clamp_min(0) + norm.eps).rsqrt()  # (B, K, 1, N)
        slope, offset = scaled_probe.sum(dim=1), (norm.bias.unsqueeze(1) * probe).sum(dim=1)  # (B, heads)
        scores = (scores - mean * slope.unsqueeze(1).unsqueeze(3)) * inverse + offset.unsqueeze(1).unsqueeze(3)

        def pool(shares: Tensor) -> Tensor:
            shrunk = shares * inverse  # (B, K, heads, N)
            coordinates = _sums(shrunk * neighbour_steps, neighbour_codes).sum(1)  # (B, heads, R)
            tokens = coordinates @ basis.transpose(0, 1) - (shrunk * mean).sum((1, 3)).unsqueeze(2)
            pooled: Tensor = tokens * norm.weight + norm.bias * shares.sum((1, 3)).unsqueeze(2)
            return pooled

        return self.row.attend(row, near, probe, scores, pool, bias)


def _products(codes: Tensor, columns: Tensor) -> Tensor:
    """Multiply (B, K, N, R) codes - 128 with (B, 1, R, c) columns, these in two bytes a number: (B, K, N, c)."""
    step = columns.abs().amax(2, keepdim=True).clamp_min(_LEAST_STEP) / _COLUMN_STEPS  # (B, 1, 1, c)
    coarse = (columns / step).round()
    fine = ((columns / step - coarse) * (2 * _COLUMN_STEPS)).round()
    count = columns.shape[3]
    found = _byte_product(codes, torch.cat([coarse, fine], dim=3).to(torch.int8), ZERO_CODE, 0)
    both = found.to(torch.float32)
    return (both[..., :count] + both[..., count:] / (2 * _COLUMN_STEPS)) * step


def _sums(weights: Tensor, codes: Tensor) -> Tensor:
    """Multiply (B, K, c, N) weights, 0 or more, in two bytes each, with (B, K, N, R) codes - 128: (B, K, c, R)."""
    step = weights.amax(3, keepdim=True).clamp_min(_LEAST_STEP) / _WEIGHT_STEPS  # (B, K, c, 1)
    steps = weights / step
    coarse = steps.floor()
    fine = ((steps - coarse) * _WEIGHT_STEPS).round()
    count = weights.shape[2]
    found = _byte_product(torch.cat([coarse, fine], dim=2).to(torch.uint8), codes, 0, ZERO_CODE)
    both = found.to(torch.float32)
    return (both[:, :, :count] + both[:, :, count:] / _WEIGHT_STEPS) * step


def _byte_product(a: Tensor, b: Tensor, a_zero: int, b_zero: int) -> Tensor:
    """`(a - a_zero) @ (b - b_zero)` of (B, K, n, r) and (B, K or 1, r, m) bytes, int32."""
    if not torch.onnx.is_in_onnx_export():
        return (a.to(torch.int32) - a_zero) @ (b.to(torch.int32) - b_zero)
    zeros = [torch.tensor(zero, dtype=side.dtype) for zero, side in ((a_zero, a), (b_zero, b))]
    shape = [*a.shape[:3], b.shape[3]]
    product: Tensor = torch.onnx.ops.symbolic("::MatMulInteger", [a, b, *zeros], dtype=torch.int32, shape=shape)
    return product
