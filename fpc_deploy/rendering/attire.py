"""Hair, hats, skirts, collars and bags."""

import numpy as np

from fpc_deploy.rendering import materials
from fpc_deploy.rendering.anchors import head_frame, leaned
from fpc_deploy.rendering.arrays import Floats
from fpc_deploy.rendering.mesh import Mesh, ball, box, tube, turn
from fpc_deploy.rendering.people import Person
from fpc_deploy.rendering.pose import Pose, Skeleton

# Height above the chin, half width, half depth, shift: the outside of a close head of hair, in body heights.
_SCALP = np.array(
    [
        [0.146, 0.004, 0.004, -0.003],
        [0.142, 0.026, 0.030, -0.005],
        [0.128, 0.041, 0.049, -0.006],
        [0.108, 0.049, 0.059, -0.007],
        [0.084, 0.050, 0.061, -0.007],
        [0.058, 0.048, 0.057, -0.006],
        [0.032, 0.043, 0.049, -0.006],
        [0.010, 0.036, 0.040, -0.008],
    ],
    np.float32,
)
_VOLUME = {
    "crop": 0.965,
    "short": 1.0,
    "full": 1.07,
    "bob": 1.06,
    "long": 1.05,
    "ponytail": 1.0,
    "bun": 1.0,
    "afro": 1.22,
}


def attire_meshes(person: Person, pose: Pose, bones: Skeleton, rows: Floats) -> list[Mesh]:
    """Build all that is worn over the body; `rows` is the torso as `torso_rows` gives it."""
    on_head = [head_frame(pose, bones, mesh) for mesh in [*_hair(person), *_hat(person)]]
    parts = on_head + _falling_hair(person, bones, rows)
    if person.lower.kind == "skirt":
        parts.append(_skirt(person, pose, bones, rows))
    return parts + _bag(person, pose, bones, rows)


def _hair(person: Person) -> list[Mesh]:
    if person.hair_style == "bald":
        return []
    size = np.float32(person.build.height_m * person.build.head)
    volume = _VOLUME[person.hair_style]
    rows = _SCALP * size
    nape = {"crop": 6, "short": 7, "full": 7, "bun": 7, "ponytail": 7}.get(person.hair_style, 8)
    rows = rows[:nape]
    angle = np.abs(np.linspace(-np.pi, np.pi, 15))
    # The face stays free: there the hair is drawn inside the head.
    line = 0.112 if person.hair_style in ("full", "bob", "afro") else 0.122
    face = 1.05 if person.hair_style in ("crop", "short", "bun", "ponytail") else 1.2
    ear = (
        np.where(angle < 1.75, 0.074, 0.0)
        if person.hair_style in ("crop", "short", "full", "bun", "ponytail")
        else 0 * angle
    )
    hidden = ((rows[:, :1] < line * size) & (angle < face)) | (rows[:, :1] < ear * size)
    push = np.where(hidden, 0.8, volume).astype(np.float32)
    points = np.stack([np.zeros(len(rows), np.float32), rows[:, 0], rows[:, 3]], 1)
    parts = [tube(points, rows[:, 1:3], materials.HAIR, 14, push=push)]
    if person.hair_style == "bun":
        parts.append(
            ball(np.array([0, 0.125, -0.06]) * size, np.array([0.028, 0.026, 0.026]) * size, materials.HAIR, 6, 8)
        )
    if person.hair_style == "ponytail":
        tail = np.array([[0, 0.11, -0.055], [0, 0.1, -0.08], [0, 0.05, -0.088], [0, 0.0, -0.08], [0, -0.03, -0.075]])
        half = np.array([0.012, 0.022, 0.024, 0.018, 0.004])
        parts.append(tube(tail * size, np.stack([half, half], 1) * size, materials.HAIR, 8))
    return parts


def _falling_hair(person: Person, bones: Skeleton, rows: Floats) -> list[Mesh]:
    if person.hair_style not in ("bob", "long"):
        return []
    tall = bones.height
    length = 0.33 if person.hair_style == "bob" else 0.24
    heights = np.linspace(0.455, length, 6).astype(np.float32) * tall
    half = np.array([0.047, 0.052, 0.054, 0.056, 0.054, 0.04]) * tall * person.build.head
    depth = np.array([0.045, 0.042, 0.036, 0.03, 0.026, 0.015]) * tall
    back = np.array([-0.012, -0.018, -0.026, -0.036, -0.048, -0.052], np.float32) * tall
    angle = np.abs(np.linspace(-np.pi, np.pi, 13))
    push = np.where(angle < 0.95, 0.3, 1.0)[None].repeat(6, 0).astype(np.float32)
    line = np.stack([np.zeros(6, np.float32), heights, back], 1)
    return [tube(leaned(line, bones), np.stack([half, depth], 1), materials.HAIR, 12, push=push)]


def _hat(person: Person) -> list[Mesh]:
    if person.hat == "none":
        return []
    size = np.float32(person.build.height_m * person.build.head)
    thick = {"beanie": 1.07, "hood": 1.16}.get(person.hat, 1.04)
    count = {"beanie": 5, "hood": 8}.get(person.hat, 5)
    rows = _SCALP[:count] * size
    points = np.stack([np.zeros(count, np.float32), rows[:, 0] + 0.004 * size, rows[:, 3]], 1)
    angle = np.abs(np.linspace(-np.pi, np.pi, 15))
    push = np.full((count, 15), thick, np.float32)
    if person.hat == "hood":
        push[rows[:, 0] < 0.115 * size] = np.where(angle < 1.0, 0.7, thick)
    parts = [tube(points, rows[:, 1:3], materials.HAT, 14, push=push)]
    if person.hat == "cap":
        visor = np.array([[0, 0.106, 0.045], [0, 0.103, 0.075], [0, 0.097, 0.1]], np.float32) * size
        parts.append(tube(visor, np.array([[0.044, 0.006], [0.042, 0.005], [0.02, 0.003]]) * size, materials.HAT, 8))
    if person.hat == "brim":
        brim = np.array([[0, 0.106, -0.004], [0, 0.104, -0.004], [0, 0.098, -0.004]], np.float32) * size
        parts.append(tube(brim, np.array([[0.05, 0.06], [0.085, 0.095], [0.09, 0.1]]) * size, materials.HAT, 14))
    return parts


def _skirt(person: Person, pose: Pose, bones: Skeleton, rows: Floats) -> Mesh:
    tall, lower = bones.height, person.lower
    drop = np.linspace(0, 1, 6).astype(np.float32)
    top, bottom = 0.11 * tall, -0.45 * tall * lower.length
    heights = top + drop * (bottom - top)
    width = np.interp(heights, rows[::-1, 0], rows[::-1, 1])
    depth = np.interp(heights, rows[::-1, 0], rows[::-1, 2])
    hips = np.maximum.accumulate(np.where(heights < -0.02 * tall, 0, width))
    deep = np.maximum.accumulate(np.where(heights < -0.02 * tall, 0, depth))
    stride = abs(np.sin(pose.phase)) * pose.stride * 0.25 * lower.length
    radii = np.stack(
        [hips + lower.flare_m * drop + 0.008, deep + (lower.flare_m * 0.8 + stride * 0.5) * drop + 0.008], 1
    )
    line = np.stack([np.zeros(6), heights, 0.01 * drop], 1) + bones.hip
    return tube(line, radii, materials.SKIRT, 14)


def _bag(person: Person, pose: Pose, bones: Skeleton, rows: Floats) -> list[Mesh]:
    tall, side = bones.height, person.bag_side
    if person.bag == "backpack":
        back = float(np.interp(0.22 * tall, rows[::-1, 0], rows[::-1, 2])) + person.upper.loose_m
        heights = np.array([0.325, 0.318, 0.28, 0.2, 0.12, 0.085, 0.078], np.float32) * tall
        half = np.array([0.02, 0.06, 0.078, 0.086, 0.086, 0.07, 0.02]) * tall
        deep = np.array([0.01, 0.03, 0.042, 0.05, 0.055, 0.045, 0.01]) * tall
        line = np.stack([np.zeros(7, np.float32), heights, np.full(7, -back - 0.03 * tall, np.float32)], 1)
        return [tube(leaned(line, bones), np.stack([half, deep], 1), materials.BAG, 12, squareness=0.8)]
    hip_side = float(rows[:, 1].max()) + person.upper.loose_m
    if person.bag == "crossbody":
        place = bones.hip + np.array([side * (hip_side + 0.02), 0.02 * tall, 0.02])
        return [box([0, 0, 0], [0.08, 0.19, 0.25], materials.BAG).placed(turn(0, 0.1), place)]
    if person.bag == "tote":
        place = bones.hip + np.array([side * (hip_side + 0.045), 0.13 * tall, 0.0])
        strap = tube(
            np.array([[side * 0.1 * tall, 0.335 * tall, 0.0], [side * (hip_side + 0.02), 0.2 * tall, 0.01]])
            + bones.hip,
            [[0.035, 0.012], [0.02, 0.012]],
            materials.BAG_STRAP,
            6,
            lateral=np.array([0, 0, 1], np.float32),
        )
        return [strap, box([0, 0, 0], [0.1, 0.3, 0.34], materials.BAG).placed(turn(0, 0.15), place)]
    if person.bag in ("handbag", "shopping"):
        large = person.bag == "shopping"
        hand = bones.arms[0 if side < 0 else 1][2] + np.array([0, -0.05 * tall, 0], np.float32)
        size = np.array([0.13, 0.36, 0.28]) if large else np.array([0.1, 0.2, 0.28])
        place = hand - [0, size[1] / 2 + 0.07, 0]
        handle = tube([hand, hand - [0, 0.1, 0]], [[0.012, 0.05], [0.012, 0.1]], materials.BAG_STRAP, 6)
        return [handle, box([0, 0, 0], size, materials.BAG).placed(turn(0, pose.arm_swing * 0.2), place)]
    return []
