"""Where things that hang on the torso and the head end up once the body is posed."""

import numpy as np

from fpc_deploy.rendering.arrays import Floats
from fpc_deploy.rendering.mesh import Mesh, turn
from fpc_deploy.rendering.pose import Pose, Skeleton


def leaned(points: Floats, bones: Skeleton) -> Floats:
    """Carry points (N, 3) that are given above the hip into the leaning torso's place."""
    return points @ turn(0, bones.lean).T + bones.hip


def head_frame(pose: Pose, bones: Skeleton, mesh: Mesh) -> Mesh:
    """Carry a mesh whose origin is the chin to the head's place and turn it as the head is turned."""
    tall = bones.height
    base = leaned(np.array([[0, 0.352 * tall, 0.003 * tall]], np.float32), bones)[0]
    rotation = turn(1, pose.head_yaw) @ turn(0, pose.head_pitch)
    lift = rotation @ np.array([0, 0.02 * tall, 0.012 * tall], np.float32)
    return mesh.placed(rotation, base + lift)
