"""MOTChallenge box files."""

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import SourceError
from runtime.sources import read_mot


def mot(folder: Path, text: str) -> Path:
    path = folder / "mot.txt"
    path.write_text(text)
    return path


def test_boxes_by_frame(tmp_path: Path) -> None:
    path = mot(
        tmp_path,
        "3,7,10,20,30,40,0.9,1,1\n"
        "1,-1,-5.5,2,3,4,0.25,-1,-1,-1\n"
        "\n"
        "3,8,1,1,2,2,-1,-1,-1,-1\n"
        "1,9,1,1,2,2\n"
        "2,4,1,1,2,2,0,1,1\r\n",
    )
    boxes = read_mot(path)
    assert len(boxes) == 4

    first = boxes.at(0)
    assert first.boxes.tolist() == [[-5.5, 2, -2.5, 6], [1, 1, 3, 3]]
    assert first.tracks.tolist() == [-1, 9]
    assert first.scores[0] == 0.25
    assert np.isnan(first.scores[1])  # six fields: no confidence

    assert len(boxes.at(1)) == 0  # confidence 0 says "ignore"

    third = boxes.at(2)
    assert third.boxes.tolist() == [[10, 20, 40, 60], [1, 1, 3, 3]]
    assert third.tracks.tolist() == [7, 8]
    assert third.scores[0] == np.float32(0.9)
    assert np.isnan(third.scores[1])  # -1: no confidence
    assert [str(array.dtype) for array in (third.boxes, third.scores, third.tracks)] == ["float32", "float32", "int64"]

    assert len(boxes.at(3)) == 0


def test_an_empty_file_has_no_boxes(tmp_path: Path) -> None:
    assert read_mot(mot(tmp_path, "")).at(0).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("1,2,3", "3 fields where 6 to 10", id="too few fields"),
        pytest.param("1,2,3,4,5,6,7,8,9,10,11", "11 fields", id="too many fields"),
        pytest.param("1 2 3 4 5 6", "1 fields", id="blanks"),
        pytest.param("1,2,three,4,5,6", "a field is not a number: '1,2,three", id="word"),
        pytest.param("1,2,3,4,,6", "a field is not a number", id="empty field"),
        pytest.param("0,2,3,4,5,6", "frame number is 0, frames count from 1", id="frame 0"),
        pytest.param("1.5,2,3,4,5,6", "frame number is 1.5", id="half a frame"),
        pytest.param("1e300,2,3,4,5,6", "frame number is", id="frame beyond"),
        pytest.param("1,2.5,3,4,5,6", "the id is 2.5", id="half an id"),
        pytest.param("1,-2,3,4,5,6", "the id is -2", id="negative id"),
        pytest.param("1,2,3,4,0,6", "width 0", id="no width"),
        pytest.param("1,2,3,4,5,-6", "height -6", id="negative height"),
        pytest.param("1,2,nan,4,5,6", "not finite", id="nan"),
        pytest.param("1,2,3,4,5,6,inf", "not finite", id="infinite confidence"),
        pytest.param("1,2,3e30,4,5,6", "beyond any frame", id="far away"),
        pytest.param("1,2,3,4,5,6,1e39", r"the confidence is 1e\+39", id="confidence beyond float32"),
        pytest.param("1,2,3,4,5,6,-1e39", r"the confidence is -1e\+39", id="confidence far below"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = mot(tmp_path, f"1,1,1,1,1,1\n\n{line}\n")
    with pytest.raises(SourceError, match=message) as caught:
        read_mot(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        read_mot(tmp_path / "missing.txt")
    with pytest.raises(SourceError, match="is not a file"):
        read_mot(tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SourceError, match=r"binary\.txt cannot be read as a box file: it is not a text file"):
        read_mot(tmp_path / "binary.txt")
