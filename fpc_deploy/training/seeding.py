"""One seed for everything random in an epoch.

Every epoch starts from a seed of its own, made of the recipe's, the phase and the epoch's number. So a run that was cut
off and goes on draws what an uninterrupted one draws, and no generator's state has to be stored.
"""

import hashlib
import random

import numpy as np
import torch
from pytorch_metric_learning.utils import common_functions


def seed_epoch(seed: int, phase: str, epoch: int) -> None:
    """Seed the generators that training draws from: torch's, Python's (timm's erasing), the sampler's."""
    digest = hashlib.sha256(f"{seed}/{phase}/{epoch}".encode()).digest()
    number = int.from_bytes(digest[:4], "little")
    torch.manual_seed(number)
    random.seed(number)
    common_functions.NUMPY_RANDOM = np.random.RandomState(number)  # where MPerClassSampler draws from
