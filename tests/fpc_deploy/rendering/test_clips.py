"""Clips: files, boxes, identities, and the same bytes for the same seed."""

import csv
from pathlib import Path

import av
import numpy as np
import pytest

from fpc_deploy.rendering import ClipPlan, render_clips
from runtime.errors import FpcError

PLAN = ClipPlan(identities=(7, 9), cameras=(1, 2), gallery_cameras=(3,), seed=4, gallery_images=2, strangers=1, rate=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_clips(tmp_path_factory.mktemp("clips") / "out", PLAN)


def boxes(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.loadtxt(path, delimiter=",", ndmin=2)


def test_files(clips: Path) -> None:
    names = {path.name for path in clips.iterdir()}
    assert names == {"cam1.mp4", "cam1.txt", "cam2.mp4", "cam2.txt", "identities.csv", "gallery"}
    assert len(list((clips / "gallery").iterdir())) == 2 * 2


@pytest.mark.parametrize("camera", [1, 2])
def test_boxes_lie_in_the_frames(clips: Path, camera: int) -> None:
    with av.open(str(clips / f"cam{camera}.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    table = boxes(clips / f"cam{camera}.txt")
    assert frames[0].shape == (540, 960, 3)
    assert table.shape[1] == 9
    assert table[:, 0].min() >= 1
    assert table[:, 0].max() <= len(frames)
    assert (table[:, 2:4] >= 0).all()
    assert (table[:, 2] + table[:, 4] <= 960.1).all()
    assert (table[:, 3] + table[:, 5] <= 540.1).all()
    assert ((table[:, 8] > 0) & (table[:, 8] <= 1)).all()


def test_something_moves_inside_the_boxes(clips: Path) -> None:
    with av.open(str(clips / "cam1.mp4")) as container:
        frames = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)]).astype(np.float32)
    empty = np.median(frames, axis=0)
    inside = []
    for frame, _, left, top, width, height, *_, visibility in boxes(clips / "cam1.txt"):
        if visibility > 0.8:
            middle = (
                slice(int(top + 0.3 * height), int(top + 0.6 * height)),
                slice(int(left + 0.4 * width), int(left + 0.6 * width)),
            )
            inside.append(np.abs(frames[int(frame) - 1] - empty)[middle].mean())
    assert np.median(inside) > 3 * np.abs(frames - empty).mean()


def test_every_track_has_an_identity(clips: Path) -> None:
    with (clips / "identities.csv").open() as stream:
        rows = [(int(row["camera"]), int(row["track"]), int(row["identity"])) for row in csv.DictReader(stream)]
    for camera in (1, 2):
        known = {track: identity for number, track, identity in rows if number == camera}
        assert sorted(known.values()) == [0, 7, 9]
        assert {int(track) for track in boxes(clips / f"cam{camera}.txt")[:, 1]} <= set(known)


def test_the_same_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    plan = ClipPlan(identities=(7,), cameras=(1,), gallery_cameras=(2,), strangers=0, gallery_images=1, rate=1)
    first, second = render_clips(tmp_path / "first", plan), render_clips(tmp_path / "second", plan)
    files = [path for path in sorted(first.rglob("*")) if path.is_file()]
    assert len(files) == 4
    for path in files:
        assert (second / path.relative_to(first)).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(ClipPlan(identities=()), id="nobody"),
        pytest.param(ClipPlan(identities=(1,), cameras=()), id="no camera"),
        pytest.param(ClipPlan(identities=(1,), rate=0), id="no rate"),
    ],
)
def test_a_bad_plan_is_refused(plan: ClipPlan, tmp_path: Path) -> None:
    with pytest.raises(FpcError):
        render_clips(tmp_path / "out", plan)
    assert not list(tmp_path.iterdir())
