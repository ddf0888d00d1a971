"""Things that stand between a camera and a person: cars, shelves, bushes, poles, signs and the like."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fpc_deploy.rendering import palette
from fpc_deploy.rendering.arrays import Colour, Floats, Mask
from fpc_deploy.rendering.mesh import Mesh, ball, box, join, leaves, tube, turn

PAINT, GLASS, DARK, LEAF, GOODS, METAL, PANEL, WALL, CARTON = range(9)


@dataclass(frozen=True)
class Thing:
    """An object on the ground at the origin, its front towards the lens.

    Attributes:
        kind: Its name, as the truth table gives it.
        mesh: Metres.
        first, second: Its colours.
        seed: Shifts its texture.
    """

    kind: str
    mesh: Mesh
    first: Colour
    second: Colour
    seed: float


def draw_thing(rng: np.random.Generator, indoor: bool, kind: str | None = None) -> Thing:
    """Draw an object that fits the place; `kind` asks for one of `THINGS`."""
    if kind is None:
        names, shares = (_INDOOR_NAMES, _INDOOR_SHARES) if indoor else (_OUTDOOR_NAMES, _OUTDOOR_SHARES)
        kind = str(rng.choice(names, p=shares))
    mesh = THINGS[kind](rng)
    angle = float(rng.choice([0, np.pi])) + float(rng.normal(0, 0.25))
    placed = mesh.placed(turn(1, angle), [0, 0, 0])
    return Thing(kind, placed, palette.upper(rng), palette.contrast(rng), float(rng.uniform(0, 50)))


def _car(rng: np.random.Generator) -> Mesh:
    length, height = rng.uniform(3.6, 4.6), rng.uniform(1.35, 1.75)
    line = height * 0.58
    cabin = tube(
        [[0, height, 0], [0, height * 0.98, 0], [0, line, 0], [0, line - 0.02, 0]],
        [[length * 0.2, 0.5], [length * 0.25, 0.62], [length * 0.36, 0.78], [length * 0.36, 0.78]],
        GLASS,
        16,
        squareness=1.0,
    )
    roof = tube(
        [[0, height + 0.03, 0], [0, height + 0.02, 0], [0, height - 0.07, 0]],
        [[0.01, 0.01], [length * 0.22, 0.54], [length * 0.255, 0.63]],
        PAINT,
        16,
        squareness=1.0,
    )
    hull = tube(
        [[0, line + 0.02, 0], [0, line, 0], [0, line * 0.6, 0], [0, 0.3, 0], [0, 0.2, 0]],
        [[length * 0.3, 0.6], [length * 0.45, 0.84], [length * 0.49, 0.9], [length * 0.48, 0.88], [length * 0.4, 0.8]],
        PAINT,
        20,
        squareness=1.0,
    )
    wheels = [
        tube(
            np.array([[x, 0.31, side * 0.72], [x, 0.31, side * 0.92], [x, 0.31, side * 0.93]]),
            [[0.31, 0.31], [0.31, 0.31], [0.05, 0.05]],
            DARK,
            12,
        )
        for x in (-length * 0.3, length * 0.3)
        for side in (-1, 1)
    ]
    posts = [
        box([x, (line + height) / 2, 0], [0.08, height - line, 1.3], PAINT) for x in (-0.1 * length, 0.12 * length)
    ]
    return join([cabin, roof, hull, *wheels, *posts])


def _shelf(rng: np.random.Generator) -> Mesh:
    width, height = rng.uniform(0.9, 1.8), rng.uniform(1.0, 1.7)
    levels = int(rng.integers(2, 5))
    parts = [box([0, height / 2, 0.24], [width, height, 0.02], METAL)]
    for level in range(levels):
        y = height * (level + 0.08) / levels
        parts.append(box([0, y, 0], [width, 0.035, 0.5], METAL))
        x = -width / 2 + 0.05
        while x < width / 2 - 0.12:
            size = rng.uniform(0.1, 0.26), rng.uniform(0.5, 0.92) * height / levels
            if rng.random() < 0.85:
                parts.append(
                    box([x + size[0] / 2, y + size[1] / 2, -0.05], [size[0] * 0.92, size[1] * 0.9, 0.3], GOODS)
                )
            x += size[0]
    parts += [box([side * width / 2, height / 2, 0], [0.03, height, 0.5], METAL) for side in (-1, 1)]
    return join(parts)


def _cartons(rng: np.random.Generator) -> Mesh:
    parts, y = [], 0.0
    for _ in range(int(rng.integers(2, 5))):
        size = rng.uniform(0.45, 0.85), rng.uniform(0.28, 0.5), rng.uniform(0.4, 0.6)
        carton = box([0, 0, 0], size, CARTON)
        parts.append(carton.placed(turn(1, rng.normal(0, 0.15)), [rng.normal(0, 0.06), y + size[1] / 2, 0]))
        y += size[1]
    return join(parts)


def _bush(rng: np.random.Generator) -> Mesh:
    height, width = rng.uniform(0.8, 1.6), rng.uniform(0.35, 0.75)
    count = 420
    points = rng.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points *= rng.uniform(0.55, 1.0, (count, 1)) * [width, height / 2, width]
    points += [0, height / 2 + 0.05, 0]
    core = ball([0.0, height / 2, 0.0], [width * 0.62, height * 0.42, width * 0.62], LEAF, 6, 8)
    pot = tube([[0.0, 0.35, 0.0], [0.0, 0.0, 0.0]], [[0.26, 0.26], [0.2, 0.2]], PANEL, 10)
    return join([core, leaves(points.astype(np.float32), 0.085, LEAF, rng), pot])


def _pole(rng: np.random.Generator) -> Mesh:
    radius = rng.uniform(0.1, 0.24)
    return tube([[0.0, 4.5, 0.0], [0.0, 2.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]], np.full((4, 2), radius), WALL, 14)


def _sign(rng: np.random.Generator) -> Mesh:
    width, height, low = rng.uniform(0.45, 0.9), rng.uniform(0.6, 1.1), rng.uniform(0.1, 1.0)
    panel = box([0, low + height / 2, 0], [width, height, 0.05], PANEL)
    posts = [box([x * width * 0.4, (low + height) / 2, 0.04], [0.05, low + height, 0.05], METAL) for x in (-1, 1)]
    return join([panel, *posts])


def _rack(rng: np.random.Generator) -> Mesh:
    parts = []
    for number in range(2):  # two bicycles: wheels, frames and a basket
        shift = number * 0.35
        for centre in (-0.52, 0.52):
            turns = np.linspace(0, 2 * np.pi, 15)
            ring = np.stack([centre + 0.33 * np.cos(turns), 0.34 + 0.33 * np.sin(turns), 0 * turns + shift], 1)
            parts.append(tube(ring, [[0.022, 0.022]] * 15, DARK, 5, lateral=np.array([0, 0, 1], np.float32)))
        joints = {"a": (-0.52, 0.34), "b": (-0.2, 0.82), "c": (0.4, 0.86), "d": (0.52, 0.34), "e": (-0.05, 0.32)}
        for start, end in ("ab", "be", "bc", "ce", "cd", "ea"):
            line = [[*joints[start], shift], [*joints[end], shift]]
            parts.append(tube(line, [[0.024, 0.024]] * 2, PAINT, 6, lateral=np.array([0, 0, 1], np.float32)))
        parts.append(box([0.55, 0.88, shift], [0.3, 0.24, 0.3], METAL))
        parts.append(box([-0.2, 0.9, shift], [0.26, 0.06, 0.14], DARK))
    return join(parts)


def _bin(rng: np.random.Generator) -> Mesh:
    width, height = rng.uniform(0.28, 0.5), rng.uniform(0.85, 1.25)
    body = tube(
        [[0, height, 0], [0, height - 0.02, 0], [0, 0.05, 0]],
        [[0.05, 0.05], [width, width], [width * 0.85, width * 0.85]],
        PAINT,
        14,
        squareness=0.9,
    )
    lid = tube(
        [[0, height + 0.08, 0], [0, height + 0.04, 0], [0, height, 0]],
        [[0.05, 0.05], [width, width], [width * 1.08, width * 1.08]],
        DARK,
        14,
        squareness=0.9,
    )
    return join([body, lid])


def _counter(rng: np.random.Generator) -> Mesh:
    width, height = rng.uniform(1.1, 2.4), rng.uniform(0.8, 1.15)
    parts = [
        box([0, height / 2, 0], [width, height, 0.6], PANEL),
        box([0, height, 0], [width + 0.08, 0.05, 0.7], METAL),
    ]
    for _ in range(int(rng.integers(0, 4))):
        size = rng.uniform(0.12, 0.4), rng.uniform(0.12, 0.4)
        parts.append(box([rng.uniform(-0.4, 0.4) * width, height + size[1] / 2, 0], [size[0], size[1], 0.25], GOODS))
    return join(parts)


def _corner(rng: np.random.Generator) -> Mesh:
    return box([0, 2, 0], [rng.uniform(0.7, 1.5), 4.4, 0.7], WALL)


def _umbrella(rng: np.random.Generator) -> Mesh:
    low, radius = rng.uniform(1.25, 1.6), rng.uniform(0.42, 0.6)
    steps = np.linspace(0, 1, 7)
    dome = np.stack([0 * steps, low + 0.3 * (1 - steps**2), 0 * steps], 1)
    cover = tube(dome, np.stack([0.02 + radius * steps, 0.02 + radius * steps], 1), PANEL, 12)
    return join([cover, box([0, low - 0.35, 0], [0.025, 1.0, 0.025], DARK)])


def _trolley(rng: np.random.Generator) -> Mesh:
    bars = [box([x, 0.72, -0.3], [0.02, 0.5, 0.02], METAL) for x in np.linspace(-0.3, 0.3, 9)]
    rails = [box([0, y, -0.3], [0.64, 0.025, 0.02], METAL) for y in (0.48, 0.64, 0.8, 0.98)]
    goods = [
        box([rng.uniform(-0.22, 0.22), 0.56 + 0.12 * k, rng.uniform(-0.1, 0.2)], rng.uniform(0.15, 0.35, 3), GOODS)
        for k in range(4)
    ]
    frame = [box([0, 0.2, 0], [0.6, 0.05, 0.8], METAL), box([0, 1.05, 0.42], [0.66, 0.05, 0.05], PAINT)]
    wheels = [ball([x, 0.08, z], [0.05, 0.08, 0.08], DARK, 5, 6) for x in (-0.25, 0.25) for z in (-0.3, 0.3)]
    return join([*bars, *rails, *goods, *frame, *wheels])


THINGS: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "car": _car, "shelf": _shelf, "cartons": _cartons, "bush": _bush, "pole": _pole, "sign": _sign, "rack": _rack,
    "bin": _bin, "counter": _counter, "corner": _corner, "umbrella": _umbrella, "trolley": _trolley,
}  # fmt: skip
_INDOOR_NAMES = ("shelf", "cartons", "bush", "pole", "sign", "counter", "corner", "trolley", "bin")
_INDOOR_SHARES = (0.24, 0.13, 0.09, 0.07, 0.1, 0.13, 0.09, 0.1, 0.05)
_OUTDOOR_NAMES = ("car", "bush", "pole", "sign", "rack", "bin", "corner", "umbrella", "cartons", "counter")
_OUTDOOR_SHARES = (0.24, 0.16, 0.09, 0.12, 0.08, 0.08, 0.08, 0.05, 0.04, 0.06)


def _print(seed: float, uv: Floats) -> Mask:
    """Return where the second colour of a panel's print is (N,): blank, a band, lines of text, or a picture."""
    u, v, style = uv[:, 0], uv[:, 1], int(seed * 7) % 4
    if style == 0:
        return np.zeros(len(u), np.bool_)
    if style == 1:
        return np.asarray(np.abs(v - 0.1 * np.sin(seed)) < 0.08, np.bool_)
    if style == 2:
        line = np.floor(v / 0.07)
        return np.asarray(((v / 0.07) % 1 < 0.45) & (np.abs(u) < 0.16 + 0.07 * np.sin(line * 7.1 + seed)), np.bool_)
    return np.asarray(np.sin(9 * u + seed) * np.sin(13 * v + 2 * np.sin(5 * u)) > 0.25, np.bool_)


def thing_colour(thing: Thing, material: int, uv: Floats) -> Floats:
    """Return the colour (N, 3) of a material of `thing` at texture coordinates (N, 2)."""
    count = len(uv)
    first, second = np.array(thing.first, np.float32), np.array(thing.second, np.float32)
    fixed = {GLASS: (0.03, 0.04, 0.05), DARK: (0.02, 0.02, 0.022), METAL: (0.28, 0.29, 0.3)}
    speckle = 1 + 0.1 * np.sin(37 * uv[:, 0] + thing.seed) * np.sin(41 * uv[:, 1] + 3 * np.sin(11 * uv[:, 0]))
    if material in fixed:
        colour = np.repeat(np.array(fixed[material], np.float32)[None], count, 0)
        speckle = np.ones_like(speckle)
    elif material == LEAF:
        green = np.array([0.05, 0.11, 0.03], np.float32) * (0.6 + (thing.seed % 1))
        colour = green * (0.45 + 1.3 * (uv[:, 0] % 1))[:, None]
    elif material == PANEL:
        colour = np.where(_print(thing.seed, uv)[:, None], second, first)
    elif material == GOODS:
        shade = np.sin(np.floor(uv[:, :1] * 40 + thing.seed) * [[1.3, 2.1, 3.7]]) * 0.2 + 0.8
        label = (np.abs(uv[:, 1]) < 0.05)[:, None]
        colour = np.where(label, second, first * 0.7 + 0.1) * shade
    elif material == CARTON:
        tape = np.abs(uv[:, 0]) < 0.03
        colour = np.where(tape[:, None], np.float32(0.42), np.array([0.33, 0.22, 0.12], np.float32))
    elif material == WALL:
        colour = np.repeat((0.25 + 0.35 * first)[None], count, 0)
        colour = colour * np.where((uv[:, 1] + 10) % 0.6 < 0.02, 0.7, 1.0)[:, None]
    else:
        colour = np.repeat(first[None], count, 0)
        speckle = np.ones_like(speckle)
    return np.asarray((colour * speckle[:, None]).astype(np.float32), np.float32)
