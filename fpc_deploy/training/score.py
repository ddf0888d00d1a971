"""mAP and rank 1 in the course of training; `fpc-deploy eval` measures what is deployed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from export.model import FPCModel
from fpc_deploy.training.device import Compute
from fpc_deploy.training.images import ImageSet
from fpc_deploy.training.memory import TokenMemory, encode_images
from fpc_deploy.training.recipe import Phase, Recipe
from fpc_deploy.training.rows import cls_row

CONSOLIDATE_BATCH = 64
"""Queries rebuilt at a time: K times as many token memories lie in memory."""


@dataclass(frozen=True)
class Score:
    """Accuracy in percent."""

    mean_average_precision: float
    rank1: float


def score_model(
    model: FPCModel,
    query: ImageSet,
    gallery: ImageSet,
    recipe: Recipe,
    compute: Compute,
    phase: Phase,
    *,
    known_cameras: bool = True,
) -> Score:
    """Rank a gallery, encoded densely, for queries by the cosine of descriptors.

    Args:
        model: left in eval mode.
        query: query images.
        gallery: gallery images.
        recipe: pruning of the queries, neighbours.
        compute: device and precision.
        phase: "encoder" ranks by the head's descriptors of the pruned queries (S), "decoder" by the consolidated
            ones (S+C, and M where the recipe has EMD).
        known_cameras: False hides every camera.
    """
    dense = encode_images(model, gallery, {}, compute, known_cameras=known_cameras)
    sparse = encode_images(model, query, recipe.keep(model.config), compute, known_cameras=known_cameras)
    descriptors = sparse.descriptors if phase == "encoder" else consolidate(model, sparse, dense, recipe)
    return rank(descriptors, dense.descriptors, query, gallery)


@torch.no_grad()
def consolidate(model: FPCModel, query: TokenMemory, gallery: TokenMemory, recipe: Recipe) -> Tensor:
    """Return (n, D) float32 descriptors of queries rebuilt from their nearest in the gallery."""
    if model.decoder is None:
        raise ValueError("this model has no decoder")
    rebuilt = []
    for tokens in torch.split(query.tokens, CONSOLIDATE_BATCH):
        places = gallery.nearest(tokens.float(), recipe)
        joined = gallery.gather(tokens.float(), places, recipe.decoder_tokens)
        rebuilt.append(cls_row(model.decoder, joined)[1])
    return torch.cat(rebuilt)


def rank(query: Tensor, gallery: Tensor, asked: ImageSet, known: ImageSet) -> Score:
    """Score descriptors by the protocol of Market-1501.

    Gallery images of the same person by the same camera are left out; queries without a match do not count.

    Args:
        query: (Q, D).
        gallery: (G, D).
        asked: the query images.
        known: the gallery images.
    """
    similarity = torch.nn.functional.normalize(query, dim=1) @ torch.nn.functional.normalize(gallery, dim=1).T
    gallery_cameras = [name or None for name in known.camera_labels]  # an unnamed camera is nobody's
    precisions, firsts = [], []
    for row, order in enumerate(similarity.argsort(dim=1, descending=True, stable=True).cpu()):
        same = known.identities == asked.identities[row]
        camera = torch.tensor([name == asked.camera_labels[row] for name in gallery_cameras])
        hits = same[order][~(same & camera)[order]].float()
        if hits.sum() == 0:
            continue
        precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
        precisions.append(float((precision * hits).sum() / hits.sum()))
        firsts.append(float(hits[0]))
    count = max(len(precisions), 1)
    return Score(100 * sum(precisions) / count, 100 * sum(firsts) / count)
