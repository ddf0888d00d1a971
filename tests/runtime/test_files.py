"""Files that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from runtime.errors import EngineError, FpcError
from runtime.files import check_output, whole_file


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_it_takes_its_name_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_text("old")
    with whole_file(path) as part:
        part.write_text("new")
        assert part.suffix == ".png"
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["plot.png"]


def interrupted(path: Path) -> None:
    with whole_file(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt


def test_what_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def too_much(path: Path) -> None:
    with whole_file(path, EngineError) as part:
        part.symlink_to("/dev/full")
        part.write_text("more")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"a\.bin cannot be written: No space left"):
        too_much(tmp_path / "a.bin")
    assert names(tmp_path) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with whole_file(tmp_path / "link") as part:
        part.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize(
    ("where", "message"),
    [(".", "is a folder"), ("absent/rows.json", "there is no folder"), ("pipe", "it is no regular file")],
)
def test_what_could_not_be_written_is_told_before_the_work(tmp_path: Path, where: str, message: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FpcError, match=message):
        check_output(tmp_path / where)
    with pytest.raises(FpcError, match=message), whole_file(tmp_path / where):
        pass
