"""The losses of a phase: cross entropy behind the BatchNorm neck, batch-hard triplets before it."""

from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from torch import Tensor, nn

from fpc_deploy.training.recipe import Recipe

MEMORY_MARGIN = 0.3
"""In cosine distance; the margin of Luo et al. (Bag of Tricks, 2019), theirs in Euclidean distance."""


class Objective:
    """Losses of descriptors.

    Args:
        recipe: smoothing and margins.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._cross_entropy = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        # Raw Euclidean distances and, at margin 0, softplus(positive - negative): the triplet loss of TransReID.
        distance = LpDistance(normalize_embeddings=False)
        self._triplet = TripletMarginLoss(recipe.margin, smooth_loss=recipe.margin == 0, distance=distance)
        self._hardest = BatchHardMiner(distance=distance)
        cosine = CosineSimilarity()
        self._memory_triplet = TripletMarginLoss(MEMORY_MARGIN, distance=cosine)
        self._memory_hardest = BatchHardMiner(distance=cosine)

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

    def memory(self, cls: Tensor, labels: Tensor) -> Tensor:
        """Return the triplet loss of (B, D) [cls] of the token memory, which stage M compares by cosine."""
        cls = cls.float()
        loss: Tensor = self._memory_triplet(cls, labels, self._memory_hardest(cls, labels))
        return loss
