"""A random generator for every thing that is drawn, named by its path, so that the order of drawing never matters."""

import zlib

import numpy as np


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """Return the generator that belongs to `path` under `seed`.

    Two workers that draw the same crop get the same generator, whatever either of them drew before.

    Args:
        seed: The data set's seed, 0 or more.
        path: Names and numbers, such as `"person", 17`.
    """
    words = [seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path)]
    return np.random.default_rng(np.random.SeedSequence(words))
