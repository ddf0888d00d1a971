"""Folders of images to calibrate with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.parity import proof_crops
from runtime.images import resize

MakeImages = Callable[..., Path]


def smooth(count: int, seed: int) -> NDArray[np.uint8]:
    """Crops whose adjacent pixels are alike, as a photograph's are."""
    coarse = proof_crops(16, 8, count, seed=seed)
    return np.stack([resize(crop, 64, 32) for crop in coarse])


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """Write (n, H, W, 3) images into a folder, named as in Market-1501: each person on two cameras."""

    def make(images: NDArray[np.uint8], folder: str = "images") -> Path:
        out = tmp_path / folder
        out.mkdir()
        for number, image in enumerate(images):
            name = f"{number // 4 + 1:04d}_c{number % 2 + 1}s1_{number:06d}_00.png"
            Image.fromarray(image).save(out / name)
        return out

    return make
