"""A folder of crops as a source."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.datasets import camera_of
from runtime.errors import SourceError
from runtime.sources import open_crops


def write(folder: Path, name: str, value: int) -> None:
    Image.new("RGB", (4, 8), (value, 0, 0)).save(folder / name)


def test_images_come_by_name_and_nothing_else_does(tmp_path: Path) -> None:
    for value, name in enumerate(["b.png", "0002_c3s1_000151_00.png", "A.PNG"]):
        write(tmp_path, name, value)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    crops = list(open_crops(tmp_path))
    assert [(crop.name, crop.camera, crop.index) for crop in crops] == [
        ("0002_c3s1_000151_00.png", "c3", 0),
        ("A.PNG", None, 1),
        ("b.png", None, 2),
    ]
    assert [int(crop.image[0, 0, 0]) for crop in crops] == [1, 2, 0]
    assert crops[0].image.shape == (8, 4, 3)
    assert crops[0].image.dtype == np.uint8


def test_unreadable_images_are_named_counted_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "a.png", 1)
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(b"broken")
    write(tmp_path, "d.png", 2)
    folder = open_crops(tmp_path)
    for _ in range(2):  # the count is of one pass
        assert [(crop.name, crop.index) for crop in folder] == [("a.png", 0), ("d.png", 3)]
        assert folder.skipped == 2
    assert len(folder) == 4
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 4
    assert "b.png is empty" in messages[0]
    assert "c.jpg is not an image" in messages[1]


def test_a_folder_with_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        open_crops(tmp_path)
    with pytest.raises(SourceError, match="nowhere does not exist"):
        open_crops(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(SourceError, match="is not a folder"):
        open_crops(tmp_path / "a.png")
    with pytest.raises(SourceError, match="none of its 1 images can be read"):
        list(open_crops(tmp_path))


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("0001_c1s1_000151_00.jpg", "c1"),
        ("-1_c6s4_002427_02.jpg", "c6"),
        ("0000_c15s2_1.jpg", "c15"),
        ("0001_c2_f0046182.jpg", "c2"),
        ("c1s1_000151.jpg", None),
        ("holiday_c1.jpg", None),
        ("0001_cab_3.jpg", None),
    ],
)
def test_cameras_in_names(name: str, camera: str | None) -> None:
    assert camera_of(name) == camera
