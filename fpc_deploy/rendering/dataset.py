"""Rendering a person data set in the layout of Market-1501, with the truth about every picture beside it."""

import csv
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

from PIL import Image

from fpc_deploy.rendering.cameras import Camera, draw_camera
from fpc_deploy.rendering.crop import Crop, render_crop
from fpc_deploy.rendering.people import Person, draw_person
from fpc_deploy.rendering.plan import DISTRACTOR, GALLERY, JUNK, QUERY, TRAIN, DatasetPlan, Picture, pictures
from fpc_deploy.rendering.processes import drawing_pool
from fpc_deploy.rendering.seeds import generator
from runtime.folders import whole_folder

TRUTH_NAME = "truth.csv"
TRUTH_COLUMNS = ("folder", "file", "identity", "camera", "hidden", "cover", "heading_deg")
Progress = Callable[[int, int], None]
"""Called with the number of things done and the number in all."""

_JPEG_QUALITY = 92
_ATTEMPTS = 5
_CHUNK = 16


def render_dataset(
    out: Path,
    plan: DatasetPlan | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Render a data set into `out`; the same plan gives the same bytes, however many workers draw it.

    The folder holds `bounding_box_train`, `query`, `bounding_box_test` and `truth.csv`.

    Args:
        out: A folder that does not exist, or is empty.
        plan: Its size and seed; the default plan when `None`.
        workers: Processes that draw.
        overwrite: Replace what `out` holds.
        progress: Told after each picture.

    Raises:
        FpcError: The plan cannot be rendered, or `out` cannot be written.
    """
    plan = plan or DatasetPlan()
    plan.check()
    with whole_folder(out, overwrite=overwrite, markers=(TRUTH_NAME,)) as part:
        fill_dataset(part, plan, workers, progress)
    return out


def fill_dataset(folder: Path, plan: DatasetPlan, workers: int, progress: Progress | None) -> None:
    """Render a data set into an existing, empty folder."""
    todo = list(pictures(plan))
    for name in (TRAIN, QUERY, GALLERY):
        (folder / name).mkdir()
    with (folder / TRUTH_NAME).open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(TRUTH_COLUMNS)
        for done, row in enumerate(_rows(folder, plan, todo, workers), start=1):
            table.writerow(row)
            if progress is not None:
                progress(done, len(todo))


def _rows(folder: Path, plan: DatasetPlan, todo: list[Picture], workers: int) -> Iterator[list[str]]:
    write = partial(_write_picture, folder, plan.height)
    if workers <= 1:
        yield from map(write, todo)
        return
    with drawing_pool(workers) as pool:
        yield from pool.map(write, todo, chunksize=_CHUNK)


@lru_cache(maxsize=256)
def _camera(seed: int, number: int) -> Camera:
    return draw_camera(seed, number)


def _person(picture: Picture) -> Person:
    if picture.identity in (DISTRACTOR, JUNK):
        return draw_person(picture.seed, picture.stranger, "distractor")
    return draw_person(picture.seed, picture.identity)


def render_picture(picture: Picture, height: int) -> Crop:
    """Draw one picture of a plan; tries that hide too much or too little are drawn again."""
    person, camera = _person(picture), _camera(picture.seed, picture.camera)
    best: Crop | None = None
    for attempt in range(_ATTEMPTS):
        rng = generator(picture.seed, "crop", *picture.path, attempt)
        crop = render_crop(person, camera, rng, picture.occlusion, height)
        miss = _miss(crop, picture)
        if best is None or miss < _miss(best, picture):
            best = crop
        if miss == 0:
            break
    if best is None:
        raise ValueError("no attempt was made")
    return best


def _miss(crop: Crop, picture: Picture) -> float:
    wanted = picture.occlusion
    if wanted.kind == "none":
        return 0.0
    return max(wanted.low - crop.hidden, crop.hidden - wanted.high, 0.0)


def _write_picture(folder: Path, height: int, picture: Picture) -> list[str]:
    crop = render_picture(picture, height)
    Image.fromarray(crop.image).save(folder / picture.folder / picture.name, "JPEG", quality=_JPEG_QUALITY)
    heading = f"{crop.heading * 57.29578:.1f}"
    numbers = [str(picture.identity), str(picture.camera), f"{crop.hidden:.4f}"]
    return [picture.folder, picture.name, *numbers, crop.cover, heading]
