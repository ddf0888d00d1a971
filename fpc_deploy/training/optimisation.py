"""The optimizer and the learning rate over the steps of a phase."""

import torch
from timm.optim._optim_factory import create_optimizer_v2
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from fpc_deploy.training.recipe import Phase, Recipe

MOMENTUM = 0.9
"""Of SGD, as in the published configuration."""
FLOOR = 0.002
"""Last rate over the first, `lr_min = 0.002 * base_lr` in the authors' scheduler factory (TransReID's)."""
WARM_UP_FROM = 0.01
"""First rate of the warm-up over the full rate, `warmup_lr_init = 0.01 * base_lr` in the same place."""
LARGEST_GRADIENT = 5.0
"""Gradients are clipped to this norm: the first batches of a transformer from scratch have spikes."""


def create_optimizer(modules: nn.Module, recipe: Recipe, phase: Phase) -> torch.optim.Optimizer:
    """Return timm's SGD or AdamW over the parameters that learn; vectors are not decayed."""
    rate = recipe.learning_rate if phase == "encoder" else recipe.decoder_learning_rate
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        modules, opt="momentum" if recipe.optimizer == "sgd" else "adamw", lr=rate,
        weight_decay=recipe.weight_decay, momentum=MOMENTUM,
    )  # fmt: skip
    return optimizer


def create_schedule(optimizer: torch.optim.Optimizer, steps: int, recipe: Recipe) -> CosineLRScheduler:
    """Return the rate by step: linear warm-up, then half a cosine down to `FLOOR`."""
    rate = optimizer.param_groups[0]["lr"]
    return CosineLRScheduler(
        optimizer, t_initial=steps, lr_min=FLOOR * rate, t_in_epochs=False,
        warmup_t=int(recipe.warm_up * steps), warmup_lr_init=WARM_UP_FROM * rate,
    )  # fmt: skip
