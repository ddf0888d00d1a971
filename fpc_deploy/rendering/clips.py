"""Camera clips in which several people walk, with the boxes and identities a tracker would be judged by."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from fpc_deploy.rendering.arrays import Bytes
from fpc_deploy.rendering.cameras import Camera, draw_camera
from fpc_deploy.rendering.crop import Occlusion, render_crop
from fpc_deploy.rendering.dataset import Progress
from fpc_deploy.rendering.filming import Box, Stage, film
from fpc_deploy.rendering.people import draw_person
from fpc_deploy.rendering.processes import drawing_pool
from fpc_deploy.rendering.seeds import generator
from fpc_deploy.rendering.viewpoint import FRAME_HEIGHT, FRAME_WIDTH
from fpc_deploy.rendering.walk import draw_walk
from runtime.errors import FpcError
from runtime.folders import whole_folder

CAST_NAME = "identities.csv"
STRANGER = 0
"""The identity of a walker who is not in the gallery."""


@dataclass(frozen=True)
class ClipPlan:
    """Which clips to render.

    Attributes:
        identities: Who walks; each passes every camera once.
        cameras: Numbers of the cameras that film.
        gallery_cameras: Numbers of the cameras that took the gallery's pictures.
        seed: Decides everything; people and cameras are those of the data set of this seed.
        strangers: Walkers per camera who are not in the gallery.
        gallery_images: Pictures of a person by each gallery camera.
        spacing_s: Time between two people entering; less makes a denser crowd.
        rate: Frames per second.
        height: Rows of a gallery picture.
    """

    identities: Sequence[int]
    cameras: Sequence[int] = (1, 2)
    gallery_cameras: Sequence[int] = (3, 4)
    seed: int = 0
    strangers: int = 1
    gallery_images: int = 3
    spacing_s: float = 1.6
    rate: int = 10
    height: int = 128

    def check(self) -> None:
        """Raise `FpcError` where the plan cannot be filmed."""
        if not self.identities or not self.cameras:
            raise FpcError("a clip needs at least one person and one camera")
        if self.rate < 1 or self.spacing_s <= 0 or self.strangers < 0 or self.gallery_images < 0:
            raise FpcError("frame rate and spacing must be above 0, strangers and gallery images 0 or more")


def render_clips(
    out: Path,
    plan: ClipPlan,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Render clips into `out`.

    The folder holds for each camera `camN.mp4` (MPEG-4) and `camN.txt` (MOTChallenge: frame, id, left, top, width,
    height, conf, class, visibility), then `identities.csv` (camera, track, identity; 0 is a stranger), and
    `gallery` with pictures of the same people by other cameras, named as in Market-1501.

    Args:
        out: A folder that does not exist, or is empty.
        plan: Who walks where.
        workers: Processes that draw.
        overwrite: Replace what `out` holds.
        progress: Told after each clip.

    Raises:
        FpcError: The plan cannot be filmed, or `out` cannot be written.
    """
    plan.check()
    with whole_folder(out, overwrite=overwrite, markers=(CAST_NAME,)) as part:
        fill_clips(part, plan, workers, progress)
    return out


def fill_clips(folder: Path, plan: ClipPlan, workers: int, progress: Progress | None) -> None:
    """Render clips into an existing, empty folder."""
    shoot = partial(_shoot, folder, plan)
    rows: list[tuple[int, int, int]] = []
    total = len(plan.cameras)
    if workers <= 1:
        results = map(shoot, plan.cameras)
        for done, result in enumerate(results, start=1):
            rows += result
            if progress is not None:
                progress(done, total)
    else:
        with drawing_pool(min(workers, total)) as pool:
            for done, result in enumerate(pool.map(shoot, plan.cameras), start=1):
                rows += result
                if progress is not None:
                    progress(done, total)
    with (folder / CAST_NAME).open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("camera", "track", "identity"))
        table.writerows(rows)
    _write_gallery(folder / "gallery", plan)


def stage_of(plan: ClipPlan, camera: Camera) -> Stage:
    """Decide who walks when through a camera's view."""
    rng = generator(plan.seed, "clip", camera.number)
    cast = [draw_person(plan.seed, identity) for identity in plan.identities]
    cast += [draw_person(plan.seed, 1000 * camera.number + k, "walk-on") for k in range(plan.strangers)]
    order = rng.permutation(len(cast))
    walks = []
    for position, number in enumerate(order):
        start = position * plan.spacing_s + float(rng.uniform(0, 0.6 * plan.spacing_s))
        walks.append(draw_walk(rng, position + 1, cast[int(number)], camera, start))
    known = set(range(len(plan.identities)))
    identities = {
        position + 1: (plan.identities[int(number)] if int(number) in known else STRANGER)
        for position, number in enumerate(order)
    }
    return Stage(camera, tuple(walks), identities, generator(plan.seed, "props", camera.number))


def _shoot(folder: Path, plan: ClipPlan, number: int) -> list[tuple[int, int, int]]:
    camera = draw_camera(plan.seed, number)
    stage = stage_of(plan, camera)
    noise = generator(plan.seed, "noise", number)
    lines: list[str] = []
    with av.open(str(folder / f"cam{number}.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=plan.rate, options={"flags": "+bitexact"})
        stream.width, stream.height, stream.pix_fmt = FRAME_WIDTH, FRAME_HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        stream.thread_count = 1  # so that the same frames give the same bytes
        stream.time_base = Fraction(1, plan.rate)
        for index, (image, boxes) in enumerate(film(stage, plan.rate, noise)):
            for packet in stream.encode(_video_frame(image, index)):
                container.mux(packet)
            lines += [_line(index + 1, box) for box in boxes]
        for packet in stream.encode():
            container.mux(packet)
    (folder / f"cam{number}.txt").write_text("".join(lines))
    return [(number, track, identity) for track, identity in sorted(stage.identities.items())]


def _video_frame(image: Bytes, index: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    frame.pts = index
    return frame


def _line(frame: int, box: Box) -> str:
    return (
        f"{frame},{box.track},{box.left:.1f},{box.top:.1f},{box.width:.1f},{box.height:.1f},1,1,{box.visibility:.3f}\n"
    )


def _write_gallery(folder: Path, plan: ClipPlan) -> None:
    folder.mkdir()
    for identity in plan.identities:
        person = draw_person(plan.seed, identity)
        for number in plan.gallery_cameras:
            camera = draw_camera(plan.seed, number)
            for index in range(plan.gallery_images):
                rng = generator(plan.seed, "enrol", identity, number, index)
                # Views all around: a gallery keeper enrols from several sides.
                heading = float(rng.normal(0, 0.35) + 2 * np.pi * index / max(1, plan.gallery_images))
                crop = render_crop(person, camera, rng, Occlusion(), plan.height, heading)
                name = f"{identity:04d}_c{number}s1_{index:06d}_00.jpg"
                Image.fromarray(crop.image).save(folder / name, "JPEG", quality=92)
