"""The colour of a person's surface at each place: cloth, prints, straps, faces."""

import numpy as np

from fpc_deploy.rendering import materials as m
from fpc_deploy.rendering.arrays import Colour, Floats, Mask
from fpc_deploy.rendering.clothing import cloth_colour
from fpc_deploy.rendering.people import Person

_TORSO_RADIUS_M, _LEG_RADIUS_M, _ARM_RADIUS_M = 0.16, 0.085, 0.05


def person_colour(person: Person, material: int, uv: Floats) -> Floats:
    """Return the colour of `material` on `person`.

    Args:
        person: Who.
        material: One of the numbers in `materials`.
        uv: (N, 2) angle around the part, 0 in front, and metres along it.

    Returns:
        (N, 3) linear light.
    """
    angle, along = uv[:, 0], uv[:, 1]
    if material == m.TORSO:
        return _torso(person, angle, along)
    if material in (m.SLEEVE_LEFT, m.SLEEVE_RIGHT):
        return cloth_colour(person.upper.sleeve_cloth, angle * _ARM_RADIUS_M, along)
    if material in (m.LEG, m.PELVIS, m.SKIRT):
        return _lower(person, material, angle, along)
    if material == m.HEAD:
        return _face(person, angle, along)
    if material == m.HAIR:
        strands = 1 + 0.22 * np.sin(31 * angle + 4 * np.sin(9 * angle)) * np.sin(14 * along + 5 * angle)
        return np.asarray(_flat(person.hair, along) * strands[:, None].astype(np.float32), np.float32)
    if material == m.BAG:
        return _bag(person, angle, along)
    if material == m.SHOE:
        return _flat(person.shoe, along)
    if material == m.BAG_STRAP:
        return _flat(person.bag_cloth.base, along) * np.float32(0.8)
    if material == m.SOCK:
        return _flat(person.skin if person.sock is None else person.sock, along)
    if material == m.HAT:
        return _flat(person.upper.cloth.base if person.hat == "hood" else person.hat_colour, along)
    return _flat(person.skin, along)


def _flat(colour: Colour, like: Floats) -> Floats:
    return np.broadcast_to(np.array(colour, np.float32), (len(like), 3)).copy()


def _torso(person: Person, angle: Floats, along: Floats) -> Floats:
    upper, tall = person.upper, person.build.height_m
    colour = cloth_colour(upper.cloth, angle * _TORSO_RADIUS_M, along)
    across = np.asarray(np.sin(angle) * _TORSO_RADIUS_M, np.float32)
    front = np.abs(angle) < np.pi / 2
    if upper.logo != "none":
        behind = upper.logo == "back"
        centre_v, centre_x = (0.24, 0.0) if upper.logo != "chest" else (0.2, 0.07)
        x, y = across - centre_x, along - centre_v * tall / 1.7
        size = upper.logo_size_m * (0.4 if upper.logo == "chest" else 1.0)
        shape = (np.abs(x) < size) & (np.abs(y) < size * 0.75) & (front != behind)
        print_ = shape & (np.sin(x / size * 5) * np.sin(y / size * 7 + x / size * 2) > -0.15)
        colour[print_] = upper.logo_colour
    if upper.opening:
        inside = np.abs(angle) < upper.opening * np.clip(0.35 + along * 1.5, 0, 1)
        colour[inside] = upper.inner
        edge = np.abs(np.abs(angle) - upper.opening * np.clip(0.35 + along * 1.5, 0, 1)) < 0.06
        colour[edge] *= 0.6
    else:
        neck = (along < 0.05 + 0.05 * np.cos(angle)) & (along < 0.045 + (0.04 * np.cos(angle) if upper.collar else 0.0))
        colour[neck] = np.array(upper.inner if upper.collar else person.skin)
        if upper.collar:
            colour[np.abs(angle) < 0.035] *= 0.7  # the row of buttons
    return _straps(person, colour, across, along, front)


def _straps(person: Person, colour: Floats, across: Floats, along: Floats, front: Mask) -> Floats:
    strap = np.array(person.bag_cloth.base, np.float32) * 0.75
    if person.bag == "backpack":
        colour[front & (np.abs(np.abs(across) - 0.095) < 0.022) & (along < 0.34)] = strap
    if person.bag == "crossbody":
        sign = person.bag_side
        line = across * sign + 0.12 - (along - 0.03) * 0.6
        colour[np.abs(line) < 0.02] = strap
    return colour


def _lower(person: Person, material: int, angle: Floats, along: Floats) -> Floats:
    lower = person.lower
    radius = _LEG_RADIUS_M if material == m.LEG else _TORSO_RADIUS_M
    colour = cloth_colour(lower.cloth, angle * radius, along + (0.2 if material != m.PELVIS else 0.0))
    if material == m.LEG:
        if lower.side_stripe:
            colour[np.abs(np.abs(angle) - np.pi / 2) < 0.25] = lower.cloth.second
        worn = np.exp(-(((along - 0.2) / 0.15) ** 2)) * np.clip(np.cos(angle), 0, 1)
        colour *= (1 + 0.25 * worn)[:, None]
    return colour


def _face(person: Person, angle: Floats, along: Floats) -> Floats:
    size = person.build.height_m * person.build.head
    colour = _flat(person.skin, along)
    x, y = angle, along / size  # y runs from the crown; eyes sit near 0.088
    beside = np.abs(np.abs(x) - 0.42)
    eyes = (beside < 0.15) & (np.abs(y - 0.1) < 0.007)
    brows = (beside < 0.22) & (np.abs(y - 0.085) < 0.005)
    sockets = np.exp(-((beside / 0.25) ** 2) - ((y - 0.097) / 0.014) ** 2)
    mouth = (np.abs(x) < 0.3) & (np.abs(y - 0.142) < 0.005)
    colour *= (1 - 0.35 * sockets)[:, None]
    colour[eyes] *= 0.3
    colour[brows] = np.array(person.hair) * 0.8 + colour[brows] * 0.2
    colour[mouth] *= np.array([0.75, 0.5, 0.5], np.float32)
    if person.hair_style == "crop" or (person.identity % 5 == 0 and person.hair_style in ("short", "bald", "full")):
        beard = (np.abs(x) < 1.3) & (y > 0.128) & ~mouth
        colour[beard] = colour[beard] * 0.55 + np.array(person.hair) * 0.45
    return colour


def _bag(person: Person, angle: Floats, along: Floats) -> Floats:
    colour = cloth_colour(person.bag_cloth, angle * 0.15, along)
    if person.bag == "backpack":
        pocket = (np.abs(np.abs(angle) - np.pi) < 0.9) & (np.abs(along - 0.3) < 0.008)
        seam = np.abs(along - 0.14) < 0.006
        colour[pocket | seam] *= 0.45
    return colour
