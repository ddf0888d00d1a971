import logging
from pathlib import Path

import pytest

from runtime.datasets import LabelledImage, read_labelled
from runtime.errors import SourceError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")
    return folder


def labels(images: list[LabelledImage]) -> list[tuple[str, str, str]]:
    return [(image.path.name, image.identity, image.camera) for image in images]


def test_market_and_duke_naming(tmp_path: Path) -> None:
    make(
        tmp_path,
        "0002_c1s1_000451_03.jpg",
        "0002_c2_f0046182.jpg",
        "0000_c6s3_094992_01.jpg",
        "-1_c3s1_000001_00.jpg",
        "1501_c12s4_000001_00.jpg.jpg",
        "Thumbs.db",
    )
    assert labels(read_labelled(tmp_path)) == [
        ("0000_c6s3_094992_01.jpg", "0000", "c6"),
        ("0002_c1s1_000451_03.jpg", "0002", "c1"),
        ("0002_c2_f0046182.jpg", "0002", "c2"),
        ("1501_c12s4_000001_00.jpg.jpg", "1501", "c12"),
    ]


def test_images_of_another_naming_among_them_are_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "0002_c1s1_000451_03.jpg", "cover.jpg")
    assert len(read_labelled(tmp_path)) == 1
    assert "1 images are not named as in Market-1501" in caplog.text


def test_folder_for_each_identity(tmp_path: Path) -> None:
    make(
        tmp_path, "Ann/one.png", "Ann/two.JPG", "Bob/0007_c4s1_000001_00.jpg", "-1/x.png", ".git/y.png", "Bob/notes.txt"
    )
    assert labels(read_labelled(tmp_path)) == [
        ("one.png", "Ann", ""),
        ("two.JPG", "Ann", ""),
        ("0007_c4s1_000001_00.jpg", "Bob", "c4"),
    ]


@pytest.mark.parametrize("header", ["", "path,identity,camera\n", "Path , identity\n"], ids=["none", "full", "odd"])
def test_csv(tmp_path: Path, header: str) -> None:
    lines = f'{header}a/1.jpg, Ann ,door\n\n"b, c.jpg",Bob\n/elsewhere/3.jpg,-1,till\n/elsewhere/4.jpg,Zoë,\n'
    (tmp_path / "list.csv").write_text(lines, encoding="utf-8-sig")
    assert read_labelled(tmp_path / "list.csv") == [
        LabelledImage(tmp_path / "a/1.jpg", "Ann", "door"),
        LabelledImage(tmp_path / "b, c.jpg", "Bob", ""),
        LabelledImage(Path("/elsewhere/4.jpg"), "Zoë", ""),
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a.jpg\n", "line 1: expected path,identity,camera"),
        (b"a.jpg,Ann\nb.jpg,\n", "line 2: expected"),
        (b"a.jpg,Ann,door,more\n", "line 1: expected"),
        (b"\xff\xfe\x00", "not a CSV file in UTF-8"),
        (b'a.jpg,"Ann\n', "not a CSV file"),
        (b"path,camera,identity\na.jpg,door,Ann\n", "line 1: expected the columns"),
        (b"file,identity,camera\na.jpg,Ann,door\n", "line 1: expected the columns"),
        (b"path,identity\n", "labels no image"),
        (b"a.jpg,-1\n", "labels no image"),
    ],
    ids=[
        "no identity",
        "empty identity",
        "too many",
        "not UTF-8",
        "open quote",
        "turned header",
        "other header",
        "header alone",
        "junk alone",
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(SourceError, match=complaint):
        read_labelled(tmp_path / "list.csv")


def test_what_fits_no_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    layouts = r"0001_c1s1_000151_00\.jpg.*a folder for each identity.*path,identity,camera"
    for source in (tmp_path / "nothing", tmp_path, make(tmp_path, "x.txt") / "x.txt"):
        with pytest.raises(SourceError, match=layouts):
            read_labelled(source)
    make(tmp_path, "holiday.jpg")
    with pytest.raises(SourceError, match=rf"holiday\.jpg, which says of nobody who it shows.*{layouts}"):
        read_labelled(tmp_path)


def test_junk_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    read_labelled(make(tmp_path, "-1_c1s1_0_0.jpg", "0001_c1s1_0_0.jpg"))
    assert "1 images of identity -1 (junk) are left out" in caplog.text
