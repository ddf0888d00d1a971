"""`fpc-deploy run` and `export` as an operator meets them: as processes, with bad input and interruptions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from runtime.bundle import Bundle
from runtime.events import Event
from runtime.gallery import Gallery
from runtime.indexing import build_gallery

COMMAND = (sys.executable, "-m", "fpc_deploy.cli")


def fpc_deploy(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with people, a gallery of them, a clip, and boxes of two people in every frame of it."""
    folder = tmp_path_factory.mktemp("site")
    rng = np.random.default_rng(0)
    for person in range(4):
        (folder / "people" / f"p{person}").mkdir(parents=True)
        for number in range(3):
            texture = np.kron(rng.integers(0, 256, (8, 4, 3)), np.ones((10, 10, 1))).astype(np.uint8)
            Image.fromarray(texture).save(folder / "people" / f"p{person}" / f"{number}.png")
    build_gallery(tiny_bundle, folder / "people", folder / "gallery")
    lines = []
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for index in range(40):
            image = np.kron(rng.integers(0, 256, (6, 10, 3)), np.ones((16, 16, 1))).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
            lines += [f"{index + 1},7,10,8,30,80,1,1,1", f"{index + 1},8,100,8,30,80,1,1,1"]
        container.mux(stream.encode())
    (folder / "boxes.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def usual(site: Path, tiny_bundle: Bundle) -> list[object]:
    return ["--bundle", tiny_bundle.folder, "--gallery", site / "gallery"]


def test_events_on_standard_output_and_nothing_else(site: Path, usual: list[object]) -> None:
    done = fpc_deploy("run", site / "clip.mp4", *usual, "--boxes", site / "boxes.txt", "--camera", "till")
    assert done.returncode == 0, done.stderr
    events = [Event.from_json(line) for line in done.stdout.splitlines()]
    assert len(events) == 80
    assert [event.pts_s for event in events[:4]] == pytest.approx([0.0, 0.0, 0.1, 0.1])
    assert {event.track for event in events} == {7, 8}
    assert events[0].box == (10.0, 8.0, 40.0, 88.0)
    assert set(events[0].stage_ms) == {"detect", "crop", "encode", "search", "emd", "decode", "rank"}
    assert "80 events" in done.stderr


def test_a_folder_of_crops(site: Path, usual: list[object], tmp_path: Path) -> None:
    for number, path in enumerate(sorted((site / "people" / "p2").iterdir())):
        shutil.copy(path, tmp_path / f"0002_c3s1_00000{number}_00.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    done = fpc_deploy("run", tmp_path, *usual, "--no-emd", "--out", tmp_path / "events.jsonl")
    assert done.returncode == 0, done.stderr
    events = [Event.from_json(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event.camera, event.pts_s, event.neighbours[0].identity) for event in events] == [("c3", None, "p2")] * 3
    assert [event.image for event in events] == [f"0002_c3s1_00000{number}_00.png" for number in range(3)]
    assert "broken.png" in done.stderr


@pytest.fixture
def endless(site: Path, usual: list[object], tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A run over a folder of so many crops that it is still busy when it is interrupted."""
    crop = next((site / "people" / "p0").iterdir())
    for number in range(3000):
        os.link(crop, tmp_path / f"{number:05}.png")
    arguments = [*COMMAND, "run", str(tmp_path), *map(str, usual)]
    log = tmp_path / "log"
    with log.open("w") as errors, subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors) as process:
        yield process
        process.kill()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "service stop"])
def test_an_interruption_ends_with_the_last_event_whole(
    endless: "subprocess.Popen[bytes]", sent: signal.Signals
) -> None:
    assert endless.stdout is not None
    first = endless.stdout.readline()
    time.sleep(0.3)
    endless.send_signal(sent)
    lines = [first, *endless.stdout.readlines()]
    assert endless.wait(timeout=60) == 0
    assert len(lines) < 3000
    assert all(line.endswith(b"\n") and json.loads(line)["schema"] == "fpc-deploy/event/1" for line in lines)


def test_a_reader_that_leaves_ends_the_run_quietly(endless: "subprocess.Popen[bytes]") -> None:
    assert endless.stdout is not None
    endless.stdout.readline()
    endless.stdout.close()
    assert endless.wait(timeout=60) == 0


def other_bundle_gallery(site: Path, bundle: Bundle, folder: Path) -> list[object]:
    binding = bundle.binding.model_copy(update={"model_hash": "0" * 64})
    Gallery.create(folder / "other", binding, 64, 10).close()
    return [site / "clip.mp4", "--bundle", bundle.folder, "--gallery", folder / "other", "--boxes", site / "boxes.txt"]


def empty_gallery(site: Path, bundle: Bundle, folder: Path) -> list[object]:
    Gallery.create(folder / "empty", bundle.binding, 64, 10).close()
    return [site / "clip.mp4", "--bundle", bundle.folder, "--gallery", folder / "empty", "--boxes", site / "boxes.txt"]


def usual_with(*arguments: object) -> object:
    def make(site: Path, bundle: Bundle, folder: Path) -> list[object]:
        filled = [str(a).format(site=site, folder=folder) for a in arguments]
        return [*filled, "--bundle", bundle.folder, "--gallery", site / "gallery"]

    return make


BAD = {
    "another bundle's gallery": (other_bundle_gallery, "made by another bundle: model_hash"),
    "empty gallery": (empty_gallery, "is empty"),
    "no such video": (usual_with("{site}/none.mp4", "--boxes", "{site}/boxes.txt"), "none.mp4"),
    "not a video": (usual_with("{site}/boxes.txt", "--boxes", "{site}/boxes.txt"), "boxes.txt"),
    "nobody says who is in it": (usual_with("{site}/clip.mp4"), "--detector DET.onnx or by --boxes"),
    "no such detector": (usual_with("{site}/clip.mp4", "--detector", "{site}/none.onnx"), "none.onnx does not exist"),
    "malformed boxes": (usual_with("{site}/clip.mp4", "--boxes", "{site}/gallery/gallery.db"), "box file"),
    "a folder with boxes": (usual_with("{site}/people/p0", "--boxes", "{site}/boxes.txt"), "neither --detector nor"),
    "no bundle": (
        lambda site, bundle, folder: [site / "clip.mp4", "--bundle", folder, "--gallery", site / "gallery"],
        "is not a bundle",
    ),
    "unwritable events": (
        usual_with("{site}/clip.mp4", "--boxes", "{site}/boxes.txt", "--out", "{folder}/none/events.jsonl"),
        "cannot be opened for writing",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(site: Path, tiny_bundle: Bundle, tmp_path: Path, make: object, message: str) -> None:
    done = fpc_deploy("run", *make(site, tiny_bundle, tmp_path))  # type: ignore[operator]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors), done.stdout) == (1, 1, "")
    assert message in errors[0]
    assert "Traceback" not in done.stderr


def test_a_matcher_input_that_is_the_graph_of_a_detector_is_told_apart(site: Path, tiny_bundle: Bundle) -> None:
    done = fpc_deploy(
        *("run", site / "clip.mp4", "--bundle", tiny_bundle.folder, "--gallery", site / "gallery"),
        *("--detector", tiny_bundle.graph_path("matcher")),
    )
    assert done.returncode == 1
    assert "matcher.onnx" in done.stderr
    assert "Traceback" not in done.stderr


def test_export_reports_and_refuses(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    done = fpc_deploy("export", tiny_checkpoint, "--out", out, "--prune-at", "1,2", "--camera-names", "a,b,c")
    assert done.returncode == 0, done.stderr
    assert "patches 10 -> 8 -> 7 at keep rate 0.8" in done.stdout
    assert Bundle.open(out).manifest.cameras.names == ("a", "b", "c")
    for arguments, message in (
        ((tiny_checkpoint, "--out", out), "--overwrite"),
        ((tiny_checkpoint, "--out", tmp_path / "b", "--prune-at", "one"), "--prune-at one: whole numbers"),
        ((tiny_checkpoint, "--out", tmp_path / "b", "--image-size", "64"), "--image-size 64: give HEIGHTxWIDTH"),
        ((tiny_checkpoint, "--out", tmp_path / "b", "--allow-loss"), "are for the judgement on --precision fp16"),
        ((tmp_path / "none.pth", "--out", tmp_path / "b"), "none.pth is not a file"),
    ):
        refused = fpc_deploy("export", *arguments)
        assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
        assert message in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_doctor_names_what_is_missing_and_how_to_get_it() -> None:
    done = subprocess.run([*COMMAND, "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "this machine can run bundles and export them" in done.stdout
    assert "pip install 'fpc-deploy[tensorrt]'" in done.stdout
    assert "installing hnswlib" in done.stdout


def test_export_in_half_precision_is_judged(tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = fpc_deploy("export", tiny_checkpoint, "--out", tmp_path / "half", "--prune-at", "1,2", "--precision", "fp16")
    assert done.returncode == 0, done.stderr
    manifest = Bundle.open(tmp_path / "half").manifest
    assert manifest.precision == "fp16"
    assert "fp16 against the reference on 16 held-out crops" in manifest.notes[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half"]
