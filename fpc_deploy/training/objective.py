"""The losses of a phase: of descriptors, cross entropy and batch-hard triplets; of the token memory, two contrasts."""

import torch
from pytorch_metric_learning.distances import BaseDistance, CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import SupConLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from torch import Tensor, nn

from fpc_deploy.training.recipe import Recipe

TEMPERATURE = 0.1
"""Of the contrasts (Khosla et al., Supervised Contrastive Learning, 2020, section 4.4)."""
ASKING_PATCHES = 12
"""Patches of an image, drawn anew each batch, that look for their match in the others: a matter of time."""


class PatchSimilarity(BaseDistance):  # type: ignore[misc]
    """How well the patches of one image find themselves in another: EMD without its second marginal, as one product.

    Each patch moves whole to its best match; its weight is its cosine with the other image's [cls] where positive, as
    in stage M. Relaxing one marginal gives the lower bound of EMD that Kusner et al. (From Word Embeddings To Document
    Distances, 2015) rank by.

    Args:
        width: D of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__(normalize_embeddings=False, is_inverted=True)
        self._width = width

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """Return (B, R) similarity of (B, (1 + n) * D) and (R, (1 + n) * D) tokens, [cls] first."""
        query, other = (_unit(tokens.reshape(len(tokens), -1, self._width)) for tokens in (query_emb, ref_emb))
        cls, patches = other[:, 0], other[:, 1:]
        drawn = torch.randperm(query.shape[1] - 1, device=query.device)[:ASKING_PATCHES] + 1
        asking = query[:, drawn].flatten(0, 1)  # (B * m, D)
        shape = (len(query), len(drawn), len(other))
        best = (asking @ patches.flatten(0, 1).T).reshape(*shape, -1).max(dim=3).values.float()  # (B, m, R)
        weight = (asking @ cls.T).reshape(shape).float().relu()
        # 1e-7: as in the matcher graph, for an image none of whose patches points the way of the other's [cls]
        found: Tensor = (weight * best).sum(dim=1) / (weight.sum(dim=1) + 1e-7)
        return found

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """Return (B,) similarity of tokens that lie side by side."""
        return self.compute_mat(query_emb, ref_emb).diagonal()


class Objective:
    """Losses of descriptors.

    Args:
        recipe: smoothing, margin and weights.
        width: D of a token.
    """

    def __init__(self, recipe: Recipe, width: int) -> None:
        self._cross_entropy = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        # Raw Euclidean distances and, at margin 0, softplus(positive - negative): the triplet loss of TransReID.
        distance = LpDistance(normalize_embeddings=False)
        self._triplet = TripletMarginLoss(recipe.margin, smooth_loss=recipe.margin == 0, distance=distance)
        self._hardest = BatchHardMiner(distance=distance)
        self._recipe = recipe
        self._cls_contrast = SupConLoss(TEMPERATURE, distance=CosineSimilarity())
        self._patch_contrast = SupConLoss(TEMPERATURE, distance=PatchSimilarity(width))

    def descriptors(
        self, before: Tensor, logits: Tensor, labels: Tensor, reference: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return the sum of cross entropy and triplet loss.

        Args:
            before: (B, D) descriptors before the neck.
            logits: (B, identities) of the classifier behind the neck.
            labels: (B,) int64.
            reference: (R, D) descriptors and (R,) labels to take positives and negatives from, instead of the batch.
        """
        before = before.float()
        others, other_labels = reference or (None, None)
        triplets = self._hardest(before, labels, others, other_labels)
        classified = self._cross_entropy(logits.float(), labels)
        loss: Tensor = classified + self._triplet(before, labels, triplets, others, other_labels)
        return loss

    def memory(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted contrasts of (B, 1 + n, D) tokens, [cls] first, that stage M compares by cosine and EMD.

        A contrast, and not hard triplets: with a margin in cosine those pulled all tokens into one direction.
        """
        loss = tokens.new_zeros((), dtype=torch.float32)
        if self._recipe.cls_weight:
            loss = loss + self._recipe.cls_weight * self._cls_contrast(tokens[:, 0].float(), labels)
        if self._recipe.patch_weight:
            loss = loss + self._recipe.patch_weight * self._patch_contrast(tokens.flatten(1), labels)
        return loss


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)
