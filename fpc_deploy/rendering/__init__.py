"""A rendered world of people and cameras: data sets and clips that need no download, with their truth.

render_dataset(Path("set"), DatasetPlan(identities=200, cameras=6, seed=1))
render_clips(Path("clips"), ClipPlan(identities=range(101, 109), seed=1))
render_crop(draw_person(seed=1, identity=7), draw_camera(seed=1, number=2), generator(1, "mine", 0))
"""

from fpc_deploy.rendering.cameras import Camera, draw_camera
from fpc_deploy.rendering.clips import ClipPlan, render_clips
from fpc_deploy.rendering.crop import Crop, Occlusion, render_crop
from fpc_deploy.rendering.dataset import render_dataset
from fpc_deploy.rendering.people import Person, draw_person
from fpc_deploy.rendering.plan import DatasetPlan
from fpc_deploy.rendering.seeds import generator

__all__ = [
    "Camera",
    "ClipPlan",
    "Crop",
    "DatasetPlan",
    "Occlusion",
    "Person",
    "draw_camera",
    "draw_person",
    "generator",
    "render_clips",
    "render_crop",
    "render_dataset",
]
