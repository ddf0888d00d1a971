"""Made-up [cls] vectors that gather as those of people do, made by the block: a million within a minute or two.

What an image's vector is made of was fitted to the shipped demo model on 5,400 rendered images of 300 people (D = 128;
three test sets of `fpc-deploy demo`): two images of a person have a mean cosine of 0.68 ([cls]) and 0.55 (descriptor),
of two people 0.19 and 0.02, with a deviation of 0.16; the share of an image's energy that its person does not explain
is 0.25 and 0.36 at the median and from 0.12 to 0.9 over the images, as some are hidden; and a quarter of the directions
carry 93% and 84% of the energy. The vectors here have 0.62 of a person and 0 of two, and 84% in a quarter of the
directions at D = 768: no easier than those.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Binding, Preprocessing
from runtime.gallery import NewEntry

BINDING = Binding(model_hash="0" * 64, precision="fp32", preprocessing=Preprocessing(height=256, width=128))
FEWEST_IMAGES, MOST_IMAGES = 10, 50
KINDS = 100
"""People are of as many kinds; two of a kind are nearer to each other, as those in like clothes are."""
KIND, PERSON, IMAGE = 0.2, 0.4, 0.36
"""Energy of what kind, person and image add; an image's varies by exp(N(0, SPREAD))."""
SPREAD = 0.5
_FALL, _KNEE = 1.5, 16
"""Energy falls with the direction k as (1 + k / _KNEE) ** -_FALL."""
_BLOCK = 1_000  # people made at a time


def vectors(first: int, count: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, D) float32 of images `first` and on, those of a person one after another, as a folder by person has them.

    The same image is always the same vector, whatever is asked for with it.
    """
    parts = []
    block = 0
    while _starts(block + 1) <= first:
        block += 1
    at = _starts(block)
    while at < first + count:
        made = _block(block, dimension, seed)
        parts.append(made[max(first - at, 0) : first + count - at])
        at, block = at + len(made), block + 1
    return np.concatenate(parts)


def people(first: int, count: int) -> NDArray[np.int64]:
    """(count,) number of the person whom each image shows."""
    block, at, parts = 0, 0, []
    while at < first + count:
        sizes = _sizes(block)
        numbers = block * _BLOCK + np.repeat(np.arange(_BLOCK), sizes)
        parts.append(numbers[max(first - at, 0) : max(first + count - at, 0)])
        at, block = at + len(numbers), block + 1
    return np.concatenate(parts)


def queries(entries: int, count: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, D) float32 of new images of people spread over a gallery of the first `entries` images."""
    known = people(0, entries)
    shown = known[np.linspace(0, entries - 1, count).astype(np.int64)]
    made = np.concatenate([_persons(int(p) // _BLOCK, dimension, seed)[int(p) % _BLOCK][None] for p in shown])
    rng = np.random.default_rng([seed, 4])
    return _turned(made + _noise(rng, count, dimension))


def records(first: int, count: int, mark: str = "") -> list[NewEntry]:
    """Facts of images `first` and on; `mark` makes them others."""
    return [
        NewEntry(f"{mark}{person:05d}", f"c{k % 6}", f"/pictures/{mark}{k:08d}.jpg", f"{mark}{k:064x}")
        for k, person in enumerate(people(first, count).tolist(), first)
    ]


@functools.cache
def _sizes(block: int) -> NDArray[np.int64]:
    return np.random.default_rng([1, block]).integers(FEWEST_IMAGES, MOST_IMAGES + 1, _BLOCK)


@functools.cache
def _starts(block: int) -> int:
    return 0 if block == 0 else _starts(block - 1) + int(_sizes(block - 1).sum())


@functools.cache
def _lengths(dimension: int) -> NDArray[np.float32]:
    """(D,) deviation in each direction, of squares that sum to 1."""
    energy = (1 + np.arange(dimension) / _KNEE) ** -_FALL
    return np.sqrt(energy / energy.sum()).astype(np.float32)


@functools.cache
def _turn(dimension: int) -> NDArray[np.float32]:
    """(D, D) a rotation, so that no axis is better than another."""
    return np.linalg.qr(np.random.default_rng(7).standard_normal((dimension, dimension)))[0].astype(np.float32)


@functools.lru_cache(maxsize=2)
def _persons(block: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """(_BLOCK, D) what the images of each person share, not turned yet."""
    kinds = np.random.default_rng([seed, 2]).standard_normal((KINDS, dimension), np.float32)
    rng = np.random.default_rng([seed, 3, block])
    shared = KIND**0.5 * kinds[rng.integers(0, KINDS, _BLOCK)]
    shared += PERSON**0.5 * rng.standard_normal((_BLOCK, dimension), np.float32)
    return shared * _lengths(dimension)


@functools.lru_cache(maxsize=2)
def _block(block: int, dimension: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng([seed, 5, block])
    made = np.repeat(_persons(block, dimension, seed), _sizes(block), axis=0)
    made += _noise(rng, len(made), dimension)
    return _turned(made)


def _noise(rng: np.random.Generator, count: int, dimension: int) -> NDArray[np.float32]:
    lengths = np.sqrt(IMAGE * np.exp(SPREAD * rng.standard_normal((count, 1), np.float32)))
    return np.asarray(lengths * rng.standard_normal((count, dimension), np.float32) * _lengths(dimension), np.float32)


def _turned(made: NDArray[np.float32]) -> NDArray[np.float32]:
    return made @ _turn(made.shape[1])
