"""Batches of a few images of each of a few people."""

from collections.abc import Iterator

import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor

from fpc_deploy.training.recipe import Recipe
from runtime.errors import SourceError


class Batches:
    """Draws the batches of an epoch: as many images as there are, to a whole batch.

    Args:
        identities: (n,) int64.
        recipe: batch size and images of an identity.

    Raises:
        SourceError: there are fewer people than a batch shows.
    """

    def __init__(self, identities: Tensor, recipe: Recipe) -> None:
        people, fits = len(torch.unique(identities)), recipe.batch_size // recipe.images_per_identity
        if people < fits:
            most = people * recipe.images_per_identity
            raise SourceError(
                f"a batch of {recipe.batch_size} shows {fits} people, the training set {people}: "
                f"give --batch-size {most} or less"
            )
        self._identities, self._recipe = identities, recipe
        self._length = max(len(identities), recipe.batch_size)

    def __len__(self) -> int:
        return self._length // self._recipe.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        """Yield (batch_size,) int64 indices."""
        recipe = self._recipe
        # A new sampler each time: it shuffles its labels in place, so a used one draws otherwise than a resumed run's.
        sampler = MPerClassSampler(self._identities, recipe.images_per_identity, recipe.batch_size, self._length)
        drawn = torch.tensor([int(index) for index in sampler])
        yield from drawn[: len(self) * recipe.batch_size].reshape(-1, recipe.batch_size)
