"""What the two phases train, and on which loss."""

from typing import Protocol

import torch
from torch import Tensor, nn

from export.model import FPCModel, keep_counts
from fpc_deploy.training.augment import Augmentation, hide_cameras
from fpc_deploy.training.device import Compute
from fpc_deploy.training.images import ImageSet
from fpc_deploy.training.memory import TokenMemory
from fpc_deploy.training.objective import Objective
from fpc_deploy.training.recipe import Recipe
from fpc_deploy.training.rows import cls_row


class TrainingPhase(Protocol):
    """A phase: parameters that learn, and the loss they learn from."""

    def parameters(self) -> nn.ModuleDict:
        """Return the modules that learn."""

    def start_epoch(self) -> None:
        """Set the modes of the modules."""

    def loss(self, index: Tensor, epoch: int) -> Tensor:
        """Return the loss of a batch of training images."""


class EncoderPhase:
    """Phase 1: the encoder with pruning, its head and the classifier.

    Args:
        model: trained in place.
        classifier: (identities, D) without bias, behind the neck.
        images: the training set.
        recipe: pruning, augmentation, losses.
        compute: device and precision.
    """

    def __init__(
        self, model: FPCModel, classifier: nn.Linear, images: ImageSet, recipe: Recipe, compute: Compute
    ) -> None:
        self._model, self._classifier, self._images, self._recipe = model, classifier, images, recipe
        self._compute, self._objective = compute, Objective(recipe, model.config.embed_dim)
        self._augment = Augmentation(recipe, model.config.height, model.config.width, compute.device)

    def parameters(self) -> nn.ModuleDict:
        """Return model and classifier; the decoder has no part in the loss and so no gradient."""
        return nn.ModuleDict({"model": self._model, "classifier": self._classifier})

    def start_epoch(self) -> None:
        """Everything trains."""
        self._model.train()

    def loss(self, index: Tensor, epoch: int) -> Tensor:
        """Return the loss of (B,) images of the training set."""
        labels = self._images.identities[index].to(self._compute.device)
        dense = epoch < self._recipe.dense_epochs or float(torch.rand(())) < self._recipe.dense_share
        pixels, cameras = _inputs(self._images, index, self._augment, self._recipe, self._model)
        with self._compute.autocast():
            tokens = self._model.encode(pixels, cameras, {} if dense else self.keep()).tokens
            before, after = cls_row(self._model.head, tokens)
            logits = self._classifier(after)
            memory = self._objective.memory(tokens, labels)
        return self._objective.descriptors(before, logits, labels) + memory

    def keep(self) -> dict[int, int]:
        """Return {block: patches that survive it} for one batch."""
        recipe, config = self._recipe, self._model.config
        if recipe.lowest_keep_rate is None:
            return recipe.keep(config)
        span = recipe.keep_rate - recipe.lowest_keep_rate
        return keep_counts(config.patches, recipe.lowest_keep_rate + span * float(torch.rand(())), recipe.prune_at)


class DecoderPhase:
    """Phase 2: the decoder learns to rebuild a query's descriptor from its neighbours in the training set.

    The encoder, its head and the classifier stay as they are. The classifier behind the decoder is the head's, and the
    triplets' positives and negatives are the head's descriptors of the batch: consolidated descriptors are ranked
    against those, so they must lie in the same space.

    Args:
        model: its decoder is trained in place.
        classifier: of phase 1.
        images: the training set.
        recipe: neighbours, augmentation, losses.
        compute: device and precision.
        memory: tokens of the training set by the dense encoder.
    """

    def __init__(
        self,
        model: FPCModel,
        classifier: nn.Linear,
        images: ImageSet,
        recipe: Recipe,
        compute: Compute,
        memory: TokenMemory,
    ) -> None:
        if model.decoder is None:
            raise ValueError("this model has no decoder")
        self._model, self._classifier, self._images, self._recipe = model, classifier, images, recipe
        self._compute, self._objective, self._memory = compute, Objective(recipe, model.config.embed_dim), memory
        self._augment = Augmentation(recipe, model.config.height, model.config.width, compute.device)
        self._keep, self._decoder = recipe.keep(model.config), model.decoder

    def parameters(self) -> nn.ModuleDict:
        """Return the decoder."""
        return nn.ModuleDict({"decoder": self._decoder})

    def start_epoch(self) -> None:
        """Only the decoder trains; the norms of the others keep their statistics."""
        self._model.eval()
        self._decoder.train()

    def loss(self, index: Tensor, epoch: int) -> Tensor:
        """Return the loss of (B,) images of the training set as queries, none of them its own neighbour."""
        labels = self._images.identities[index].to(self._compute.device)
        with torch.no_grad(), self._compute.autocast():
            pixels, cameras = _inputs(self._images, index, self._augment, self._recipe, self._model)
            query = self._model.encode(pixels, cameras, self._keep).tokens.float()
            neighbours = self._memory.nearest(query, self._recipe, leave_out=index)
            tokens = self._memory.gather(query, neighbours, self._recipe.decoder_tokens)
        with self._compute.autocast():
            before, after = cls_row(self._decoder, tokens)
            logits = self._classifier(after)
        reference = (self._memory.before[index].to(before.device), labels)
        return self._objective.descriptors(before, logits, labels, reference)


def _inputs(
    images: ImageSet, index: Tensor, augment: Augmentation, recipe: Recipe, model: FPCModel
) -> tuple[Tensor, Tensor]:
    """Return (B, 3, H, W) pixels and (B,) cameras of a batch."""
    unknown = model.config.cameras
    cameras = hide_cameras(images.cameras[index], recipe.unknown_camera, unknown)
    pixels = augment(images.crops[index])
    return pixels, cameras.to(pixels.device)
