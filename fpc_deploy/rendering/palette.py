"""Colours as people wear them: mostly black, grey, navy, white and denim, with some that stand out."""

import numpy as np

from fpc_deploy.rendering.arrays import Colour, linear

SKIN = [(240, 205, 180), (228, 185, 155), (210, 165, 130), (190, 140, 105), (150, 105, 75), (110, 75, 55), (80, 55, 42)]
HAIR = [(22, 18, 17), (38, 28, 22), (60, 42, 30), (95, 66, 42), (150, 112, 70), (190, 160, 110), (140, 138, 135)]
HAIR_SHARE = [0.34, 0.22, 0.16, 0.12, 0.07, 0.04, 0.05]

_DARK = [(24, 24, 27), (40, 41, 45), (30, 36, 58), (48, 40, 36), (66, 68, 72), (36, 50, 46)]
_LIGHT = [(232, 232, 228), (205, 206, 205), (222, 212, 192), (190, 205, 222), (235, 205, 210)]
_MUTED = [
    (120, 122, 125),
    (92, 104, 130),
    (128, 106, 84),
    (104, 114, 84),
    (150, 130, 108),
    (126, 84, 86),
    (84, 118, 120),
]
_VIVID = [
    (188, 38, 42),
    (222, 120, 40),
    (228, 196, 60),
    (52, 134, 76),
    (40, 96, 180),
    (120, 64, 148),
    (218, 92, 140),
    (60, 170, 178),
]
_DENIM = [(48, 62, 92), (66, 86, 122), (104, 128, 160), (34, 40, 58), (140, 158, 178)]
_TROUSER = [(28, 28, 31), (40, 44, 56), (84, 80, 72), (150, 132, 104), (92, 94, 98), (66, 70, 54), (200, 196, 186)]
_SHOE = [(24, 23, 24), (60, 44, 34), (220, 220, 218), (120, 120, 124), (180, 50, 50), (50, 70, 120)]


def _jitter(rng: np.random.Generator, choice: tuple[int, int, int], spread: float = 10.0) -> Colour:
    brightness = rng.normal(0, spread)
    values = np.clip(np.array(choice) + brightness + rng.normal(0, spread * 0.5, 3), 6, 250)
    return linear(float(values[0]), float(values[1]), float(values[2]))


def _pick(rng: np.random.Generator, groups: list[list[tuple[int, int, int]]], shares: list[float]) -> Colour:
    group = groups[int(rng.choice(len(groups), p=shares))]
    return _jitter(rng, group[int(rng.integers(len(group)))])


def skin(rng: np.random.Generator) -> Colour:
    """Draw a skin colour."""
    return _jitter(rng, SKIN[int(rng.choice(len(SKIN), p=[0.17, 0.23, 0.2, 0.16, 0.11, 0.08, 0.05]))], 6)


def hair(rng: np.random.Generator) -> Colour:
    """Draw a hair colour."""
    return _jitter(rng, HAIR[int(rng.choice(len(HAIR), p=HAIR_SHARE))], 6)


def upper(rng: np.random.Generator) -> Colour:
    """Draw the colour of a shirt or jacket."""
    return _pick(rng, [_DARK, _LIGHT, _MUTED, _VIVID, _DENIM], [0.3, 0.22, 0.2, 0.23, 0.05])


def contrast(rng: np.random.Generator) -> Colour:
    """Draw a second colour: of a stripe, a print, a bag."""
    return _pick(rng, [_DARK, _LIGHT, _MUTED, _VIVID], [0.3, 0.3, 0.12, 0.28])


def lower(rng: np.random.Generator) -> Colour:
    """Draw the colour of trousers that are not denim."""
    return _pick(rng, [_TROUSER, _MUTED, _VIVID], [0.78, 0.14, 0.08])


def denim(rng: np.random.Generator) -> Colour:
    """Draw the colour of jeans."""
    return _pick(rng, [_DENIM], [1.0])


def shoe(rng: np.random.Generator) -> Colour:
    """Draw the colour of a shoe."""
    return _jitter(rng, _SHOE[int(rng.choice(len(_SHOE), p=[0.36, 0.14, 0.26, 0.12, 0.06, 0.06]))], 8)
