"""The mesh of a dressed person in a pose: torso, limbs, head."""

import numpy as np

from fpc_deploy.rendering import materials
from fpc_deploy.rendering.anchors import head_frame, leaned
from fpc_deploy.rendering.arrays import Floats
from fpc_deploy.rendering.attire import attire_meshes
from fpc_deploy.rendering.mesh import Mesh, ball, join, tube
from fpc_deploy.rendering.people import Build, Person
from fpc_deploy.rendering.pose import Pose, Skeleton, skeleton

# Height above the hip joints, half width, half depth and forward shift of an average torso, in body heights.
_TORSO = np.array(
    [
        [0.365, 0.034, 0.036, 0.004],
        [0.345, 0.050, 0.042, 0.000],
        [0.328, 0.080, 0.050, -0.004],
        [0.308, 0.108, 0.058, -0.006],
        [0.275, 0.119, 0.067, -0.004],
        [0.230, 0.116, 0.073, 0.000],
        [0.180, 0.104, 0.069, 0.002],
        [0.120, 0.094, 0.064, 0.003],
        [0.070, 0.099, 0.068, 0.000],
        [0.020, 0.106, 0.074, -0.004],
        [-0.020, 0.102, 0.072, -0.006],
        [-0.050, 0.060, 0.055, -0.004],
    ],
    np.float32,
)
_WAIST = 0.11  # body heights above the hip joints
_LEG_STATIONS = np.array([0.0, 0.16, 0.32, 0.43, 0.5, 0.57, 0.68, 0.84, 1.0], np.float32)
_LEG_RADII = np.array([0.056, 0.053, 0.046, 0.038, 0.034, 0.032, 0.034, 0.028, 0.021], np.float32)
_ARM_STATIONS = np.array([0.0, 0.06, 0.25, 0.42, 0.5, 0.58, 0.75, 1.0], np.float32)
_ARM_RADII = np.array([0.024, 0.030, 0.028, 0.024, 0.022, 0.022, 0.020, 0.015], np.float32)


def body_mesh(person: Person, pose: Pose) -> Mesh:
    """Build the mesh of `person` in the body's frame: x to the side, y up from the ground, z forwards, metres."""
    bones = skeleton(person.build, pose)
    rows = torso_rows(person.build)
    parts = [*_torso(person, bones, rows), *_head(person, pose, bones)]
    for number in (0, 1):
        parts += _leg(person, bones, number)
        parts += _arm(person, bones, number)
    parts += attire_meshes(person, pose, bones, rows)
    return join(parts)


def torso_rows(build: Build) -> Floats:
    """Return the torso of `build`, rows of height above the hip, half width, half depth and shift, metres."""
    rows = _TORSO.copy()
    shoulders = np.interp(rows[:, 0], [0.1, 0.25, 0.33, 0.345], [0, 1, 1, 0.3])
    hips = np.interp(rows[:, 0], [-0.06, 0.03, 0.15], [1, 1, 0])
    middle = 1 - np.maximum(shoulders, hips)
    width = shoulders * build.shoulders + hips * build.hips + middle * build.girth
    width /= shoulders + hips + middle
    rows[:, 1] *= width
    rows[:, 2] *= 0.35 + 0.65 * build.girth
    bulge = np.exp(-(((rows[:, 0] - 0.1) / 0.07) ** 2)) * build.belly * 0.018
    rows[:, 2] += bulge
    rows[:, 3] += bulge * 0.7
    return rows * np.float32(build.height_m)


def _torso(person: Person, bones: Skeleton, rows: Floats) -> list[Mesh]:
    tall, upper = bones.height, person.upper
    below = rows[rows[:, 0] < (_WAIST + 0.02) * tall]
    zeros = np.zeros(len(below), np.float32)
    pelvis = tube(
        leaned(np.stack([zeros, below[:, 0], below[:, 3]], 1), bones),
        below[:, 1:3] + person.lower.loose_m * 0.4,
        materials.PELVIS,
        12,
    )
    hem = (_WAIST - upper.hem) * tall
    heights = np.concatenate([rows[:8, 0], np.linspace(0.09 * tall, min(hem, 0.07 * tall), 3)[1:], [hem]])
    heights = np.unique(heights)[::-1].astype(np.float32)
    shape = np.stack([np.interp(heights, rows[::-1, 0], rows[::-1, column]) for column in (1, 2, 3)], 1)
    shape = shape.astype(np.float32)
    chest = int(np.argmax(shape[:, 0]))
    slack = np.clip((rows[2, 0] - heights) / (0.1 * tall), 0.15, 1) * upper.loose_m
    for row in range(chest + 1, len(heights)):  # cloth hangs from the chest rather than following the waist
        shape[row, :2] = np.maximum(shape[row, :2], shape[row - 1, :2] * (0.955 if upper.loose_m < 0.012 else 0.985))
    bottom = np.clip((0.02 * tall - heights) / tall, 0, 1)
    radii = shape[:, :2] + slack[:, None] + 0.25 * bottom[:, None] * tall * np.array([0.5, 0.6])
    line = np.stack([np.zeros_like(heights), heights, shape[:, 2]], 1)
    torso = tube(leaned(line, bones), radii, materials.TORSO, 14, squareness=0.35)
    return [pelvis, torso]


def _smooth_line(joints: Floats, stations: Floats) -> Floats:
    """Return points along joint 0, 1, 2 with the middle joint rounded; station 0.5 is the middle joint."""
    first = np.clip(stations * 2, 0, 1)[:, None]
    second = np.clip(stations * 2 - 1, 0, 1)[:, None]
    line = joints[0] + first * (joints[1] - joints[0]) + second * (joints[2] - joints[1])
    rounding = 0.5 * np.clip(1 - np.abs(stations - 0.5) / 0.14, 0, 1)[:, None] ** 2
    chord = (joints[0] + joints[2]) / 2
    return np.asarray((line + rounding * 0.16 * (chord - joints[1])).astype(np.float32), np.float32)


def _leg(person: Person, bones: Skeleton, number: int) -> list[Mesh]:
    joints, tall, lower = bones.legs[number], bones.height, person.lower
    thick = 0.3 + 0.7 * person.build.girth
    line = _smooth_line(joints, _LEG_STATIONS)
    radii = _LEG_RADII * tall * thick
    parts = []
    if lower.kind != "trousers" or lower.length < 0.95:
        parts.append(tube(line[3:], np.stack([radii[3:], radii[3:]], 1), materials.SKIN, 8))
    sock = np.stack([line[-1] + (line[-2] - line[-1]) * 0.5, line[-1], line[-1] - np.array([0, 0.03, 0]) * tall])
    parts.append(tube(sock, np.array([[0.023, 0.024], [0.021, 0.022], [0.022, 0.022]]) * tall, materials.SOCK, 8))
    if lower.kind != "skirt":
        stations = _LEG_STATIONS * lower.length
        cloth = np.interp(stations, _LEG_STATIONS, radii) + lower.loose_m + lower.flare_m * stations**2
        cloth[-1] += 0.004
        parts.append(tube(_smooth_line(joints, stations), np.stack([cloth, cloth * 1.05], 1), materials.LEG, 10))
    return parts + _foot(person, joints, tall)


def _foot(person: Person, joints: Floats, tall: float) -> list[Mesh]:
    ankle, toe = joints[2], joints[3]
    along = (toe - ankle) * np.array([1, 0.55, 1], np.float32)
    heel = ankle - along * 0.28 - np.array([0, 0.018 * tall, 0], np.float32)
    steps = np.array([0.0, 0.06, 0.35, 0.7, 0.93, 1.0], np.float32)[:, None]
    end = toe + np.array([0, 0.004, 0], np.float32)
    line = heel + steps * (end - heel)
    half = np.array([[0.008, 0.01], [0.02, 0.027], [0.023, 0.03], [0.028, 0.02], [0.022, 0.015], [0.006, 0.006]])
    parts = [tube(line, half * tall, materials.SHOE, 8)]
    if not person.boot_m:
        return parts
    upward = joints[1] - ankle  # the shaft of a boot
    top = ankle + upward * min(0.8, person.boot_m / 0.24 * 0.62)
    boot = np.stack([top, (top + ankle) / 2, ankle - np.array([0, 0.02 * tall, 0], np.float32)])
    return [*parts, tube(boot, np.array([[0.029, 0.03], [0.027, 0.028], [0.026, 0.03]]) * tall, materials.SHOE, 8)]


def _arm(person: Person, bones: Skeleton, number: int) -> list[Mesh]:
    joints, tall, upper = bones.arms[number], bones.height, person.upper
    thick = 0.4 + 0.6 * person.build.girth
    radii = _ARM_RADII * tall * thick
    parts = []
    if upper.sleeve < 0.9:
        line = _smooth_line(joints, _ARM_STATIONS)
        parts.append(tube(line, np.stack([radii, radii], 1), materials.SKIN, 8))
    if upper.sleeve > 0:
        stations = _ARM_STATIONS * upper.sleeve
        cloth = np.interp(stations, _ARM_STATIONS, radii) + upper.loose_m * np.clip(stations * 8, 0.3, 0.75)
        cloth[0] = radii[0]
        material = (materials.SLEEVE_LEFT, materials.SLEEVE_RIGHT)[number]
        parts.append(tube(_smooth_line(joints, stations), np.stack([cloth, cloth * 1.08], 1), material, 9))
    wrist, tip = joints[2], joints[3]
    hand = wrist + np.array([-0.1, 0.15, 0.55, 0.9, 1.0])[:, None] * (tip - wrist)
    half = np.array([[0.013, 0.014], [0.014, 0.019], [0.014, 0.024], [0.011, 0.019], [0.003, 0.006]]) * tall
    return [*parts, tube(hand, half, materials.SKIN, 7)]


def _head(person: Person, pose: Pose, bones: Skeleton) -> list[Mesh]:
    tall = bones.height
    base = leaned(np.array([[0, 0.352 * tall, 0.003 * tall]], np.float32), bones)[0]
    chin = base + np.array([0, 0.028 * tall, 0.012 * tall], np.float32)
    neck = tube(
        np.stack([chin + np.array([0, 0.03 * tall, -0.002 * tall]), chin, base - np.array([0, 0.012 * tall, 0])]),
        np.array([[0.031, 0.034], [0.03, 0.033], [0.036, 0.036]]) * tall * (0.6 + 0.4 * person.build.girth),
        materials.SKIN,
        8,
    )
    return [neck, head_frame(pose, bones, head_shape(person))]


# Height above the chin, half width, half depth and forward shift of a head, in body heights.
_HEAD = np.array(
    [
        [0.139, 0.004, 0.004, 0.000],
        [0.136, 0.022, 0.026, -0.002],
        [0.124, 0.037, 0.045, -0.002],
        [0.105, 0.044, 0.055, -0.001],
        [0.080, 0.045, 0.057, 0.002],
        [0.055, 0.043, 0.054, 0.005],
        [0.030, 0.038, 0.046, 0.010],
        [0.012, 0.029, 0.034, 0.016],
        [0.000, 0.008, 0.010, 0.022],
    ],
    np.float32,
)


def head_shape(person: Person) -> Mesh:
    """Build the bare head with its chin at the origin."""
    size = np.float32(person.build.height_m * person.build.head)
    rows = _HEAD * size
    line = np.stack([np.zeros(len(rows), np.float32), rows[:, 0], rows[:, 3]], 1)
    skull = tube(line, rows[:, 1:3], materials.HEAD, 12)
    nose = ball(np.array([0, 0.058, 0.06]) * size, np.array([0.007, 0.012, 0.011]) * size, materials.SKIN, 5, 6)
    return join([skull, nose])
