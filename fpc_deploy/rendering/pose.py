"""Where a walking or standing person's joints are."""

from dataclasses import dataclass

import numpy as np

from fpc_deploy.rendering.arrays import Floats
from fpc_deploy.rendering.people import Build


@dataclass(frozen=True)
class Pose:
    """How the body is held; angles in radians.

    Attributes:
        phase: Of the gait, 0 to 2 pi.
        stride: Swing of the hip; 0 stands.
        lean: Of the torso, forwards.
        head_yaw: Turn of the head to the side.
        head_pitch: Nod, downwards.
        arm_swing: Swing of the shoulders.
        elbows: Bend of both elbows.
        shoulders: Extra swing of each, as when a phone is held.
        spread: Of the arms, sideways.
    """

    phase: float
    stride: float
    lean: float
    head_yaw: float
    head_pitch: float
    arm_swing: float
    elbows: tuple[float, float]
    shoulders: tuple[float, float]
    spread: float


def draw_pose(rng: np.random.Generator, walking: float = 0.75) -> Pose:
    """Draw a pose; `walking` is the share of people who walk."""
    stride = rng.uniform(0.25, 0.52) if rng.random() < walking else rng.uniform(0.0, 0.07)
    elbows, shoulders = [rng.uniform(0.1, 0.55), rng.uniform(0.1, 0.55)], [0.0, 0.0]
    if rng.random() < 0.22:  # a phone, or a strap that is held
        arm = int(rng.integers(2))
        elbows[arm], shoulders[arm] = rng.uniform(1.5, 2.3), rng.uniform(0.1, 0.5)
    return Pose(
        phase=float(rng.uniform(0, 2 * np.pi)),
        stride=float(stride),
        lean=float(rng.normal(0.05, 0.04)),
        head_yaw=float(np.clip(rng.normal(0, 0.3), -0.9, 0.9)),
        head_pitch=float(np.clip(rng.normal(0.1, 0.15), -0.3, 0.6)),
        arm_swing=float(stride * rng.uniform(0.5, 1.1)),
        elbows=(float(elbows[0]), float(elbows[1])),
        shoulders=(float(shoulders[0]), float(shoulders[1])),
        spread=float(rng.uniform(0.08, 0.2)),
    )


@dataclass(frozen=True)
class Skeleton:
    """Joints in the body's frame (x to its side, y up from the ground, z forwards), metres.

    Attributes:
        height: Of the body.
        legs: Two (4, 3): hip, knee, ankle, toe.
        arms: Two (4, 3): shoulder, elbow, wrist, finger tips.
        hip: (3,) between the hips; the torso leans about it.
        lean: Of the torso, radians.
    """

    height: float
    legs: tuple[Floats, Floats]
    arms: tuple[Floats, Floats]
    hip: Floats
    lean: float


def skeleton(build: Build, pose: Pose) -> Skeleton:
    """Bend a body of `build` into `pose`; its lower foot stands on the ground (y = 0)."""
    tall = build.height_m
    thigh, shin = 0.236 * tall * build.legs, 0.238 * tall * build.legs
    legs, lowest = [], []
    for side, offset in ((-1, 0.0), (1, np.pi)):
        swing = pose.stride * np.sin(pose.phase + offset) + 0.06 * pose.stride
        bend = 0.06 + pose.stride * 1.5 * max(0.0, float(np.cos(pose.phase + offset + 0.25))) ** 1.5
        hip = np.array([side * 0.053 * tall * build.hips, 0, 0])
        knee = hip + thigh * _swung(swing, -0.02 * side)
        ankle = knee + shin * _swung(swing - bend, -0.02 * side)
        foot = swing - bend * 0.8
        toe = ankle + tall * 0.125 * np.array([side * 0.25, -0.28 + np.sin(foot) * 0.7, np.cos(foot)])
        legs.append(np.stack([hip, knee, ankle, toe]))
        lowest.append(min(ankle[1] - 0.045 * tall, toe[1] - 0.012 * tall))
    lift = np.array([0, -min(lowest), 0])
    hip_middle = lift.astype(np.float32)
    joints = tuple((leg + lift).astype(np.float32) for leg in legs)
    return Skeleton(tall, (joints[0], joints[1]), _arms(build, pose, hip_middle), hip_middle, pose.lean)


def _swung(angle: float, sideways: float) -> Floats:
    return np.array([np.sin(sideways), -np.cos(angle), np.sin(angle)], np.float32)


def _arms(build: Build, pose: Pose, hip: Floats) -> tuple[Floats, Floats]:
    tall = build.height_m
    arms = []
    for number, (side, offset) in enumerate(((-1, np.pi), (1, 0.0))):
        swing = pose.arm_swing * np.sin(pose.phase + offset) + pose.shoulders[number]
        height = 0.31 * tall
        shoulder = hip + np.array(
            [side * 0.104 * tall * build.shoulders, height * np.cos(pose.lean), height * np.sin(pose.lean)]
        )
        spread = side * (pose.spread + 0.12 * max(0.0, build.girth - 1))
        bend = swing + pose.elbows[number]
        upper, fore = 0.17 * tall * build.arms, 0.15 * tall * build.arms
        elbow = shoulder + upper * _swung(swing, spread)
        wrist = elbow + fore * _swung(bend, -0.3 * spread - 0.25 * side * max(0.0, pose.elbows[number] - 1))
        tip = wrist + 0.085 * tall * _swung(bend + 0.15, -0.3 * spread)
        arms.append(np.stack([shoulder, elbow, wrist, tip]).astype(np.float32))
    return arms[0], arms[1]
