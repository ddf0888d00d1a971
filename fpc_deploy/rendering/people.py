"""Who a person is: build, skin, hair and everything worn, drawn once from a seed and kept between cameras.

People come in families of four who share the colour of the upper garment (and often its cut), so that one colour
does not tell them apart: trousers, bags, hair and prints must.
"""

from dataclasses import dataclass

import numpy as np

from fpc_deploy.rendering import palette
from fpc_deploy.rendering.arrays import Colour
from fpc_deploy.rendering.clothing import Cloth, draw_cloth, plain
from fpc_deploy.rendering.seeds import generator

FAMILY_SIZE = 4
_FAMILY_SHARE = 0.7  # of a family's members that wear its colour
HAIR_STYLES = ("bald", "crop", "short", "full", "bob", "long", "ponytail", "bun", "afro")
BAGS = ("none", "backpack", "handbag", "crossbody", "tote", "shopping")
HATS = ("none", "cap", "beanie", "brim", "hood")


@dataclass(frozen=True)
class Build:
    """Body measures; the factors multiply those of an average adult."""

    height_m: float
    shoulders: float
    girth: float
    hips: float
    legs: float
    arms: float
    belly: float
    head: float


@dataclass(frozen=True)
class Upper:
    """What is worn above: cut, cloth and print; `opening` is the half width in radians of an open front."""

    cloth: Cloth
    sleeve_cloth: Cloth
    inner: Colour
    sleeve: float  # share of the arm
    hem: float  # share of the body height below the waist
    loose_m: float
    opening: float
    logo: str  # none, chest, front, back
    logo_colour: Colour
    logo_size_m: float
    collar: bool


@dataclass(frozen=True)
class Lower:
    """What is worn below: `kind` is trousers, shorts or skirt; `length` its share of the leg."""

    kind: str
    cloth: Cloth
    length: float
    loose_m: float
    flare_m: float
    side_stripe: bool


@dataclass(frozen=True)
class Person:
    """Everything that stays the same when a person goes from camera to camera."""

    identity: int
    build: Build
    skin: Colour
    hair_style: str
    hair: Colour
    upper: Upper
    lower: Lower
    shoe: Colour
    sock: Colour | None  # `None` shows the skin
    boot_m: float
    bag: str
    bag_cloth: Cloth
    bag_side: int
    hat: str
    hat_colour: Colour


def draw_person(seed: int, identity: int, kind: str = "person") -> Person:
    """Draw the person of number `identity` under `seed`; `kind` names another population, such as passers-by."""
    rng = generator(seed, kind, identity)
    feminine = bool(rng.random() < 0.5)
    build = _draw_build(rng, feminine)
    upper = _draw_upper(rng, generator(seed, kind, "family", identity // FAMILY_SIZE))
    lower = _draw_lower(rng, upper, feminine)
    share = (
        [0.01, 0.06, 0.14, 0.12, 0.19, 0.27, 0.14, 0.05, 0.02]
        if feminine
        else [0.07, 0.3, 0.33, 0.21, 0.02, 0.02, 0.02, 0.01, 0.02]
    )
    bag = str(rng.choice(BAGS, p=[0.36, 0.24, 0.12 if feminine else 0.03, 0.12, 0.07, 0.09 if feminine else 0.18]))
    socks = rng.random() < 0.7
    shoe = palette.shoe(rng)
    return Person(
        identity=identity,
        build=build,
        skin=palette.skin(rng),
        hair_style=str(rng.choice(HAIR_STYLES, p=share)),
        hair=palette.hair(rng),
        upper=upper,
        lower=lower,
        shoe=shoe,
        sock=((0.65, 0.65, 0.63) if rng.random() < 0.5 else (0.03, 0.03, 0.035)) if socks else None,
        boot_m=float(rng.uniform(0.15, 0.3)) if feminine and rng.random() < 0.2 else 0.0,
        bag=bag,
        bag_cloth=draw_cloth(rng, palette.contrast(rng), 0.3),
        bag_side=int(rng.choice([-1, 1])),
        hat=str(rng.choice(HATS, p=[0.76, 0.1, 0.05, 0.04, 0.05])),
        hat_colour=palette.contrast(rng),
    )


def _draw_build(rng: np.random.Generator, feminine: bool) -> Build:
    girth = float(np.clip(rng.normal(1.0, 0.13), 0.78, 1.45))
    child = rng.random() < 0.04
    return Build(
        height_m=float(
            rng.uniform(1.2, 1.45) if child else np.clip(rng.normal(1.64 if feminine else 1.76, 0.07), 1.48, 1.98)
        ),
        shoulders=float(rng.normal(0.93 if feminine else 1.05, 0.05)) * (0.6 + 0.4 * girth),
        girth=girth,
        hips=float(rng.normal(1.05 if feminine else 0.95, 0.05)) * (0.5 + 0.5 * girth),
        legs=float(rng.normal(1.0, 0.035)),
        arms=float(rng.normal(1.0, 0.03)),
        belly=float(np.clip(rng.normal(0.3, 0.4) + 2.5 * (girth - 1), 0, 1.5)),
        head=float(rng.normal(1.0, 0.04)) * (1.2 if child else 1.0),
    )


def _draw_upper(rng: np.random.Generator, family: np.random.Generator) -> Upper:
    # The family's draws come first and in full, so that every member sees the same ones.
    shared, shared_cloth = palette.upper(family), draw_cloth(family, palette.upper(family))
    shared_cut = str(
        family.choice(["tshirt", "shirt", "hoodie", "jacket", "coat", "vest"], p=[0.34, 0.16, 0.17, 0.18, 0.1, 0.05])
    )
    member = rng.random() < _FAMILY_SHARE
    own = palette.upper(rng)
    base = shared if member else own
    cut = (
        shared_cut
        if member and rng.random() < 0.7
        else str(
            rng.choice(["tshirt", "shirt", "hoodie", "jacket", "coat", "vest"], p=[0.34, 0.16, 0.17, 0.18, 0.1, 0.05])
        )
    )
    own_cloth = draw_cloth(rng, base, 0.8)
    cloth = shared_cloth if member and rng.random() < 0.2 else own_cloth
    sleeve = {"tshirt": rng.uniform(0.22, 0.42), "vest": 0.0, "shirt": rng.choice([0.35, 0.6, 0.97])}.get(cut, 0.97)
    contrast_sleeve = cut in ("tshirt", "jacket", "hoodie") and rng.random() < 0.15
    opened = cut in ("jacket", "coat") and rng.random() < 0.6
    hem = {"coat": rng.uniform(0.16, 0.34), "jacket": rng.uniform(0.05, 0.11)}.get(cut, rng.uniform(0.04, 0.12))
    logo = str(rng.choice(["none", "chest", "front", "back"], p=[0.5, 0.14, 0.22, 0.14]))
    return Upper(
        cloth=cloth,
        sleeve_cloth=plain(palette.contrast(rng)) if contrast_sleeve else cloth,
        inner=palette.contrast(rng),
        sleeve=float(sleeve),
        hem=float(hem),
        loose_m=float({"coat": 0.03, "jacket": 0.025, "hoodie": 0.025}.get(cut, rng.uniform(0.006, 0.018))),
        opening=float(rng.uniform(0.25, 0.6)) if opened else 0.0,
        logo="none" if opened else logo,
        logo_colour=palette.contrast(rng),
        logo_size_m=float(rng.uniform(0.06, 0.12)),
        collar=cut in ("shirt", "coat"),
    )


def _draw_lower(rng: np.random.Generator, upper: Upper, feminine: bool) -> Lower:
    skirt = feminine and rng.random() < 0.28
    kind = "skirt" if skirt else ("shorts" if rng.random() < 0.17 else "trousers")
    dress = skirt and rng.random() < 0.45
    jeans = not skirt and rng.random() < 0.42
    colour = palette.denim(rng) if jeans else palette.lower(rng)
    cloth = upper.cloth if dress else draw_cloth(rng, colour, 0.6 if skirt else 0.12)
    length = {"skirt": rng.uniform(0.32, 0.85), "shorts": rng.uniform(0.28, 0.52)}.get(
        kind, rng.choice([0.96, 0.96, 0.85])
    )
    return Lower(
        kind=kind,
        cloth=cloth,
        length=float(length),
        loose_m=float(rng.choice([0.004, 0.012, 0.026], p=[0.4, 0.4, 0.2])),
        flare_m=float(rng.uniform(0.02, 0.14) if skirt else rng.choice([0.0, 0.012, 0.035], p=[0.5, 0.35, 0.15])),
        side_stripe=bool(kind != "skirt" and rng.random() < 0.07),
    )
