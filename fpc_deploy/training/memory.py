"""Token memory: what the encoder makes of a set of images, and the search for neighbours in it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from export.graphs import MatcherGraph
from export.model import DecoderTokens, FPCModel, normalise
from fpc_deploy.training.device import Compute
from fpc_deploy.training.images import ImageSet
from fpc_deploy.training.recipe import Recipe
from fpc_deploy.training.rows import cls_row
from runtime.bundle import MatchSettings

ENCODE_BATCH = 128
"""Images encoded at a time where nothing learns; fits the memory of small machines."""


@dataclass(frozen=True)
class TokenMemory:
    """Encoded images.

    Attributes:
        tokens: (n, 1 + P, D) float16, [cls] first, before any norm: half the memory, and what a gallery stores.
        before: (n, D) float32 descriptors before the neck.
        descriptors: (n, D) float32 descriptors.
    """

    tokens: Tensor
    before: Tensor
    descriptors: Tensor

    def nearest(self, query: Tensor, recipe: Recipe, leave_out: Tensor | None = None) -> Tensor:
        """Return (B, K) int64 places of the nearest images, nearest first.

        Args:
            query: (B, 1 + M, D) tokens.
            recipe: K and the weight of EMD.
            leave_out: (B,) place that is no neighbour of each query: its own.
        """
        cosine = _unit(query[:, 0]) @ _unit(self.tokens[:, 0].to(query)).T  # (B, n)
        if leave_out is not None:
            cosine.scatter_(1, leave_out.unsqueeze(1).to(cosine.device), -2.0)  # less than any cosine
        available = len(self.tokens) - (leave_out is not None)
        count = min(recipe.neighbours, available)
        if recipe.alpha == 0:
            return cosine.topk(count, dim=1).indices
        defaults = MatchSettings()
        best = cosine.topk(min(defaults.refine, available), dim=1)
        matcher = MatcherGraph(defaults.sinkhorn_iterations, defaults.sinkhorn_weights)
        emd = torch.cat([self._emd(matcher, query[row : row + 1], best.indices[row]) for row in range(len(query))])
        mixed = (1 - recipe.alpha) * (1 - best.values) + recipe.alpha * emd
        return best.indices.gather(1, mixed.topk(count, dim=1, largest=False).indices)

    def gather(self, query: Tensor, places: Tensor, included: DecoderTokens) -> Tensor:
        """Return (B, 1 + ..., D) decoder input: the mean [cls], then patches.

        Args:
            query: (B, 1 + M, D) tokens.
            places: (B, K) neighbours.
            included: whether the query's own tokens join its neighbours'.
        """
        near = self.tokens[places.to(self.tokens.device)].to(query)  # (B, K, 1 + N, D)
        members, patches = near[:, :, 0], near[:, :, 1:].flatten(1, 2)
        if included == "query+gallery":
            members = torch.cat([query[:, :1], members], dim=1)
            patches = torch.cat([query[:, 1:], patches], dim=1)
        return torch.cat([members.mean(dim=1, keepdim=True), patches], dim=1)

    def _emd(self, matcher: MatcherGraph, query: Tensor, places: Tensor) -> Tensor:
        """Return (1, C) distances of one query, (1, 1 + M, D)."""
        candidates = self.tokens[places.to(self.tokens.device)].to(query).unsqueeze(0)  # (1, C, 1 + N, D)
        distance: Tensor = matcher(query[:, 0], query[:, 1:], candidates[:, :, 0], candidates[:, :, 1:])
        return distance


@torch.no_grad()
def encode_images(
    model: FPCModel, images: ImageSet, keep: dict[int, int], compute: Compute, *, known_cameras: bool = True
) -> TokenMemory:
    """Encode a set without augmentation; leaves the model in eval mode.

    Args:
        model: encoder and head.
        images: of the model's crop size.
        keep: pruning of the sparse encoder; empty for the dense one.
        compute: device and precision.
        known_cameras: False hides every camera, as where a new site is watched.
    """
    model.eval()
    unknown = model.config.cameras
    tokens, before, after = [], [], []
    for start in range(0, len(images), ENCODE_BATCH):
        part = slice(start, start + ENCODE_BATCH)
        pixels = normalise(images.crops[part].to(compute.device))
        cameras = images.cameras[part].to(compute.device)
        if not known_cameras:
            cameras = torch.full_like(cameras, unknown)
        with compute.autocast():
            encoded = model.encode(pixels, cameras, keep).tokens
            first, second = cls_row(model.head, encoded)
        tokens.append(encoded.half())
        before.append(first.float())
        after.append(second.float())
    return TokenMemory(torch.cat(tokens), torch.cat(before), torch.cat(after))


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
