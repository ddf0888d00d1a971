"""The matcher as the paper writes it, in plain torch: what the exported matcher is proved against."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from export.graphs import SINKHORN_REGULARISATION, SinkhornWeights


def earth_movers_distance(
    query_cls: Tensor,
    query_patches: Tensor,
    candidate_cls: Tensor,
    candidate_patches: Tensor,
    iterations: int,
    weights: SinkhornWeights = "cls",
) -> Tensor:
    """Return the (C,) distances of one query to its candidates, in float64.

    Args:
        query_cls: (D,).
        query_patches: (M, D).
        candidate_cls: (C, D).
        candidate_patches: (C, N, D).
        iterations: Sinkhorn steps.
        weights: against what a patch is weighed: the other side's [cls] (published code) or the mean of its patches
            (paper eq. 7).
    """
    query, candidates = normalize(query_patches.double(), dim=-1), normalize(candidate_patches.double(), dim=-1)
    if weights == "cls":
        query_centre = normalize(query_cls.double(), dim=-1)
        candidate_centre = normalize(candidate_cls.double(), dim=-1)
    else:
        query_centre, candidate_centre = query.mean(dim=0), candidates.mean(dim=1)
    supply = relu(torch.einsum("cnd,d->cn", candidates, query_centre))
    demand = relu(torch.einsum("md,cd->cm", query, candidate_centre))
    supply = supply / (supply.sum(dim=1, keepdim=True) + 1e-7)
    demand = demand / (demand.sum(dim=1, keepdim=True) + 1e-7)
    similarity = torch.einsum("cnd,md->cnm", candidates, query)
    kernel = torch.exp((similarity - 1) / SINKHORN_REGULARISATION)
    row, column = torch.ones_like(supply), torch.ones_like(demand)
    for _ in range(iterations):
        row = supply / torch.einsum("cnm,cm->cn", kernel, column)
        column = demand / torch.einsum("cnm,cn->cm", kernel, row)
    transport = row.unsqueeze(2) * kernel * column.unsqueeze(1)
    return 1 - torch.nan_to_num((transport * similarity).sum(dim=(1, 2)))
