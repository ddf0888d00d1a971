"""The whole road on real data: a detector, a gallery cut from the same video, and who stands at the table when."""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

from runtime.bundle import Bundle
from runtime.detection.detector import Detector
from runtime.events import Event
from runtime.images import cut, has_area
from runtime.sources import open_frames
from tests.paths import VIDEO, YOLOX_NANO

# Seconds in which somebody stands or walks in full view, and in which the room is empty, looked up frame by frame.
STANDING_S = ((8, 18), (25, 43), (53, 68), (76, 85), (96, 118), (126, 134))
EMPTY_S = ((1, 5), (20.5, 22), (46.5, 49), (71, 73), (88, 92), (121, 122.5))
STEP_S = 1.4
"""Time between the frames that are looked at: about 100 of the 1,394."""


def thinned(path: Path) -> int:
    """Write every 14th frame of the video as a video of its own, with its times; returns the number of frames."""
    import av

    step = round(STEP_S * 10)  # 10 frames a second
    count = 0
    with open_frames(str(VIDEO)) as frames, av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 768, 432, "yuv420p", 8_000_000
        for frame in frames:
            if frame.index % step == 0:
                picture = av.VideoFrame.from_ndarray(frame.image, format="rgb24")
                picture.pts = frame.index
                container.mux(stream.encode(picture))
                count += 1
        container.mux(stream.encode())
    return count


def fpc_deploy(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fpc_deploy.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def inside(seconds: float, spans: tuple[tuple[float, float], ...]) -> int | None:
    """Number of the span that holds this time."""
    return next((number for number, (start, end) in enumerate(spans) if start <= seconds <= end), None)


def cut_gallery(video: Path, folder: Path) -> set[str]:
    """Save a few crops of each stretch as a folder per identity; return the identities."""
    detector = Detector.open(YOLOX_NANO)
    taken: dict[int, int] = defaultdict(int)
    with open_frames(str(video)) as frames:
        for frame in frames:
            stretch = inside(frame.pts_s, STANDING_S)
            if stretch is None or taken[stretch] == 3:
                continue
            people = detector.detect(frame.image)
            people = people[has_area(people.boxes, 432, 768)]
            if len(people):
                taken[stretch] += 1
                person = folder / f"visitor {stretch + 1}"
                person.mkdir(parents=True, exist_ok=True)
                Image.fromarray(cut(frame.image, people.boxes[:1], 256, 128)[0]).save(person / f"{frame.index}.png")
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_people_at_the_table_yield_events_and_the_empty_room_none(tiny_bundle: Bundle, tmp_path: Path) -> None:
    video, gallery, events = tmp_path / "thin.mp4", tmp_path / "gallery", tmp_path / "events.jsonl"
    assert thinned(video) == 100
    identities = cut_gallery(video, tmp_path / "people")
    assert len(identities) == len(STANDING_S)
    built = fpc_deploy("index", "build", tmp_path / "people", "--bundle", tiny_bundle.folder, "--out", gallery)
    assert built.returncode == 0, built.stderr
    ran = fpc_deploy(
        *("run", video, "--bundle", tiny_bundle.folder, "--gallery", gallery, "--detector", YOLOX_NANO),
        *("--camera", "table", "--out", events),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    found = [Event.from_json(line) for line in events.read_text().splitlines()]
    times = [event.pts_s for event in found if event.pts_s is not None]
    assert len(times) == len(found)
    assert {inside(seconds, STANDING_S) for seconds in times} >= set(range(len(STANDING_S)))
    assert [seconds for seconds in times if inside(seconds, EMPTY_S) is not None] == []
    assert {event.identity for event in found} <= identities
    assert all(event.camera == "table" and len(event.neighbours) == 10 and event.stage_ms["emd"] > 0 for event in found)
