"""Cloth: a record of what it looks like, and its colour at a place on the body."""

from dataclasses import dataclass

import numpy as np

from fpc_deploy.rendering import palette
from fpc_deploy.rendering.arrays import Colour, Floats

PATTERNS = ("plain", "stripes", "pinstripes", "checks", "dots", "camouflage", "two_tone", "band", "melange", "flowers")
_UPPER_SHARE = (0.42, 0.11, 0.05, 0.11, 0.03, 0.03, 0.08, 0.07, 0.06, 0.04)


@dataclass(frozen=True)
class Cloth:
    """What a piece of cloth looks like.

    Attributes:
        base: Its main colour, linear light.
        second: The colour of its pattern.
        pattern: One of `PATTERNS`.
        scale_m: Period of the pattern, metres.
        split_m: Where a two-tone cloth changes and where a band runs, metres from the top.
        phase: Shifts the pattern, radians.
    """

    base: Colour
    second: Colour
    pattern: str
    scale_m: float
    split_m: float
    phase: float


def plain(colour: Colour) -> Cloth:
    """Return cloth of one colour."""
    return Cloth(colour, colour, "plain", 0.1, 0.3, 0.0)


def draw_cloth(rng: np.random.Generator, base: Colour, patterned: float = 1.0) -> Cloth:
    """Draw a cloth of main colour `base`; `patterned` below 1 makes plain cloth likelier."""
    pattern = str(rng.choice(PATTERNS, p=_UPPER_SHARE)) if rng.random() < patterned else "plain"
    second = palette.contrast(rng)
    scale = {"checks": rng.uniform(0.06, 0.16), "camouflage": rng.uniform(0.12, 0.22)}.get(
        pattern, rng.uniform(0.05, 0.15)
    )
    return Cloth(base, second, pattern, float(scale), float(rng.uniform(0.2, 0.45)), float(rng.uniform(0, 6.28)))


def cloth_colour(cloth: Cloth, across_m: Floats, along_m: Floats) -> Floats:
    """Return the colour of `cloth` at places on it.

    Args:
        cloth: The cloth.
        across_m: (N,) metres around the body.
        along_m: (N,) metres from the top.

    Returns:
        (N, 3) linear light.
    """
    share = _share_of_second(cloth, across_m, along_m)
    base, second = np.array(cloth.base, np.float32), np.array(cloth.second, np.float32)
    return base + share[:, None] * (second - base)


def _share_of_second(cloth: Cloth, across: Floats, along: Floats) -> Floats:
    turns = np.float32(2 * np.pi / cloth.scale_m)
    wave_v = np.sin(turns * along + cloth.phase)
    if cloth.pattern == "plain":
        return np.zeros_like(along)
    if cloth.pattern == "stripes":
        return np.asarray((wave_v > 0.1).astype(np.float32), np.float32)
    if cloth.pattern == "two_tone":
        return (along > cloth.split_m).astype(np.float32)
    if cloth.pattern == "band":
        return np.asarray((np.abs(along - cloth.split_m + 0.04) < 0.05).astype(np.float32), np.float32)
    wave_u = np.sin(turns * across + cloth.phase)
    if cloth.pattern == "pinstripes":
        return np.asarray((wave_u > 0.45).astype(np.float32) * 0.8, np.float32)
    if cloth.pattern == "checks":
        return np.asarray(((wave_u > 0.2).astype(np.float32) + (wave_v > 0.2)) * 0.5, np.float32)
    if cloth.pattern == "dots":
        return np.asarray((wave_u * np.sin(turns * along) > 0.45).astype(np.float32), np.float32)
    if cloth.pattern == "flowers":
        petals = np.sin(turns * 0.9 * across + 2 * wave_v) * np.sin(turns * along + 1.7 * wave_u)
        return np.asarray(np.clip(petals * 3 - 0.6, 0, 1), np.float32)
    slow = np.sin(turns * 0.7 * across + 1.9 * wave_v) + np.sin(turns * 0.9 * along + 2.3 * wave_u + 1)
    if cloth.pattern == "camouflage":
        return np.asarray(np.clip(slow * 3, 0, 1), np.float32)
    return np.asarray(
        0.25 + 0.12 * np.sin(7.3 * turns * across + 3 * slow) * np.sin(5.1 * turns * along), np.float32
    )  # melange
