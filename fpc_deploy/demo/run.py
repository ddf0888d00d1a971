"""The main job from end to end, with no file from outside: render, export, index, run, report."""

import csv
import importlib.util
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fpc_deploy.demo.track import Track
from runtime.bundle import MatchSettings
from runtime.errors import MissingExtraError

log = logging.getLogger(__name__)

CHECKPOINT = Path(__file__).parents[1] / "demo_model" / "demo.pth"
WATCHING = (1, 2)
"""Cameras that film; the gallery's pictures were taken by others."""
ENROLLING = (3, 4, 5)
FRAMES_PER_SECOND = 5
MATCHING = MatchSettings(search_by="descriptor", neighbour_temperature=0.05, passes=2, min_own_similarity=0.55)
"""Chosen on rendered people of seed 104, the last on demo seeds 21 and 22; they are in no reported figure."""


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Attributes:
        tracks: of people who are in the gallery.
        right: how many of those were named rightly.
        strangers: tracks of people who are not.
        unnamed: how many of those were named nobody.
        events: events in all.
        seconds: from start to report.
        report: the page to look at.
    """

    tracks: int
    right: int
    strangers: int
    unnamed: int
    events: int
    seconds: float
    report: Path


def run_demo(out: Path, seed: int, people: int) -> DemoResult:
    """Render two cameras and a gallery, export the shipped model, index, watch, and write a report.

    Args:
        out: folder for bundle, gallery, clips, events and report; what an earlier demo left there is replaced.
        seed: of people and cameras.
        people: who walk past both cameras.

    Raises:
        MissingExtraError: torch or timm is not installed.
        FpcError: a step failed; the message says which.
    """
    start = time.perf_counter()
    for package in ("torch", "timm"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "export")
    from fpc_deploy.rendering import ClipPlan, render_clips
    from fpc_deploy.rendering.processes import drawing_pool

    log.info("1/5 rendering %d people, cameras %s", people, WATCHING)
    plan = ClipPlan(tuple(range(1, people + 1)), WATCHING, ENROLLING, seed, rate=FRAMES_PER_SECOND)
    with drawing_pool(1) as beside:  # tracing takes one thread
        rendering = beside.submit(
            render_clips, out / "clips", plan, workers=max(1, (os.cpu_count() or 1) - 1), overwrite=True
        )
        from export.write import ExportOptions, export_bundle  # seconds: torch
        from fpc_deploy.demo.report import write_report
        from runtime.indexing import build_gallery

        log.info("2/5 exporting the model: each graph is proved against torch")
        bundle = export_bundle(CHECKPOINT, out / "bundle", ExportOptions(matching=MATCHING, overwrite=True))
        clips = rendering.result()
    log.info("3/5 indexing the gallery")
    build_gallery(bundle, clips / "gallery", out / "gallery", overwrite=True)
    log.info("4/5 watching the cameras")
    tracks = [track for camera in WATCHING for track in _watch(out, clips, f"cam{camera}")]
    log.info("5/5 writing the report")
    report = write_report(out, bundle, CHECKPOINT, tracks)
    known = [track for track in tracks if track.truth is not None]
    strangers = [track for track in tracks if track.truth is None]
    return DemoResult(
        tracks=len(known),
        right=sum(track.right for track in known),
        strangers=len(strangers),
        unnamed=sum(track.right for track in strangers),
        events=sum(len(track.events) for track in tracks),
        seconds=time.perf_counter() - start,
        report=report,
    )


def _watch(out: Path, clips: Path, camera: str) -> list[Track]:
    """Run the pipeline on one clip with its known boxes; return its tracks with their events."""
    from runtime.bundle import Bundle
    from runtime.gallery import Gallery
    from runtime.pipeline import Pipeline
    from runtime.sinks import JsonLines
    from runtime.sources import open_frames, read_mot
    from runtime.stream import people_in_frames, watch

    bundle = Bundle.open(out / "bundle")
    size = (bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)
    boxes = read_mot(clips / f"{camera}.txt")
    tracks = {track.number: track for track in _read_truth(clips / "identities.csv", camera)}
    events = out / f"{camera}.jsonl"
    events.unlink(missing_ok=True)
    with (
        Gallery.open(out / "gallery", bundle.binding) as gallery,
        open_frames(str(clips / f"{camera}.mp4")) as frames,
        JsonLines(events) as sink,
    ):
        pipeline = Pipeline(bundle, gallery)
        for batch in people_in_frames(frames, lambda frame: boxes.at(frame.index), size, camera):
            for event, crop in zip(watch([batch], pipeline, frames.name), batch.crops, strict=True):
                sink.write(event)
                if event.track in tracks:
                    tracks[event.track].add(event, crop)
    return [track for track in tracks.values() if track.events]


def _read_truth(path: Path, camera: str) -> Sequence[Track]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if camera == f"cam{row['camera']}"]
    return [
        # gallery pictures are named as in Market-1501, with four digits; 0 is a stranger
        Track(camera, int(row["track"]), f"{int(row['identity']):04d}" if int(row["identity"]) else None)
        for row in rows
    ]
