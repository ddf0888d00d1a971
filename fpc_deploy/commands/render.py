"""`fpc-deploy render`: a rendered person data set, and clips to watch."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress


def render(
    out: Annotated[Path, typer.Argument(help="Folder to make; it must not exist, or be empty.")],
    identities: Annotated[int, typer.Option(help="People in all; train and test people are disjoint.")] = 200,
    cameras: Annotated[int, typer.Option(help="Cameras of the site.")] = 6,
    seed: Annotated[int, typer.Option(help="Another seed gives other people and other cameras.")] = 0,
    train_share: Annotated[float, typer.Option(help="Share of the people in the training set.")] = 0.5,
    train_images: Annotated[int, typer.Option(help="Training pictures of a person by each camera.")] = 4,
    train_cameras: Annotated[
        int | None, typer.Option(help="Cameras that see a training person; all by default.")
    ] = None,
    gallery_images: Annotated[int, typer.Option(help="Gallery pictures of a person by each camera.")] = 2,
    distractors: Annotated[float, typer.Option(help="Gallery pictures of strangers (0000), per test person.")] = 0.0,
    junk: Annotated[float, typer.Option(help="Gallery pictures of next to nothing (-1), per test person.")] = 0.0,
    height: Annotated[int, typer.Option(help="Rows of a picture; it has half as many columns.")] = 128,
    video: Annotated[bool, typer.Option("--video", help="Film test people too, into OUT/video.")] = False,
    walkers: Annotated[int, typer.Option(help="Test people who walk through the clips.")] = 8,
    rate: Annotated[int, typer.Option(help="Frames per second of the clips.")] = 10,
    workers: Annotated[int, typer.Option(help="Processes that draw; 0 takes one per processor.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what OUT holds.")] = False,
) -> None:
    """Render a person data set in Market-1501 layout, with the truth about every picture in truth.csv."""
    from fpc_deploy.rendering.clips import ClipPlan, fill_clips
    from fpc_deploy.rendering.dataset import TRUTH_NAME, fill_dataset
    from fpc_deploy.rendering.plan import DatasetPlan
    from runtime.folders import whole_folder

    plan = DatasetPlan(
        identities, cameras, seed, train_share, train_images, gallery_images, distractors, junk, height,
        train_cameras,
    )  # fmt: skip
    plan.check()
    clips = None
    if video:
        people = tuple(plan.test_identities[:walkers])
        clips = ClipPlan(people, (1, 2), tuple(range(3, cameras + 1)) or (1, 2), seed, rate=rate, height=height)
        clips.check()
    processes = workers if workers > 0 else os.cpu_count() or 1
    with whole_folder(out, overwrite=overwrite, markers=(TRUTH_NAME,)) as part, _bar() as bar:
        task = bar.add_task("Pictures", total=None)
        fill_dataset(part, plan, processes, lambda done, total: bar.update(task, completed=done, total=total))
        if clips is not None:
            filming = bar.add_task("Clips", total=len(clips.cameras))
            (part / "video").mkdir()
            fill_clips(part / "video", clips, processes, lambda done, total: bar.update(filming, completed=done))
    typer.echo(f"{out}: {len(plan.train_identities)} people to train on, {len(plan.test_identities)} to test on")


def _bar() -> Progress:
    return Progress(console=Console(stderr=True))
