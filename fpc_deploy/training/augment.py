"""Augmentation: mirror, shift, light, and a hidden rectangle."""

from typing import Any

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import v2

from export.model import normalise
from fpc_deploy.training.recipe import Recipe


class Augmentation:
    """Makes training pixels of crops; draws from torch's global generator.

    Args:
        recipe: probabilities and sizes.
        height: of a crop, in pixels.
        width: of a crop, in pixels.
        device: where pixels go.
    """

    def __init__(self, recipe: Recipe, height: int, width: int, device: torch.device) -> None:
        steps: list[torch.nn.Module] = [v2.RandomHorizontalFlip(recipe.flip)]
        if recipe.padding:
            steps += [v2.Pad(recipe.padding), v2.RandomCrop((height, width))]
        if recipe.jitter:
            steps.append(v2.ColorJitter(brightness=recipe.jitter, contrast=recipe.jitter))
        self._each = v2.Compose(steps)
        # Noise rather than grey: a network learns at once that grey rectangles mean nothing.
        self._erase: Any = RandomErasing(  # type: ignore[no-untyped-call]
            recipe.erasing, max_area=0.4, mode="pixel", device=device.type
        )
        self._device = device

    def __call__(self, crops: Tensor) -> Tensor:
        """Return (B, 3, H, W) float32 normalised pixels of (B, H, W, 3) uint8 crops."""
        images = torch.stack([self._each(crop) for crop in crops.permute(0, 3, 1, 2)])
        pixels = normalise(images.permute(0, 2, 3, 1).to(self._device, non_blocking=True))
        erased: Tensor = self._erase(pixels)
        return erased


def hide_cameras(cameras: Tensor, probability: float, unknown: int) -> Tensor:
    """Return (B,) camera numbers, each replaced by `unknown` with a probability."""
    return torch.where(torch.rand(len(cameras)) < probability, unknown, cameras)
