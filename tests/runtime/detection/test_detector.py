"""The detector on the real video, and graphs of other shapes, good and hostile, in the real ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.detection.detections import NO_TRACK
from runtime.detection.detector import MAX_PEOPLE, Detector
from runtime.detection.layouts import grid_of
from runtime.errors import DetectorError, EngineError
from runtime.sources import Frame, open_frames
from tests.paths import VIDEO, YOLOX_NANO

Shape = tuple[int | str | None, ...]


@pytest.fixture(scope="module")
def first_person() -> list[Frame]:
    """The real video's first 22 s, two frames a second: empty, a man at the table, empty."""
    with open_frames(str(VIDEO)) as frames:
        return [frame for frame, _ in zip(frames, range(220), strict=False) if frame.index % 5 == 0]


@pytest.fixture(scope="module")
def yolox() -> Detector:
    return Detector.open(YOLOX_NANO, threads=2)


def constant_model(
    path: Path,
    answer: NDArray[np.float32],
    *,
    side: int | str | None = 64,
    declared: Shape | None = None,
    dtype: int = TensorProto.FLOAT,
    channels: int = 3,
) -> Path:
    """A graph that takes images and answers the same whatever it sees."""
    image = helper.make_tensor_value_info("images", dtype, [1, channels, side, side])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, declared or answer.shape)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["floats"], ["greatest"], keepdims=0),
        helper.make_node("Mul", ["greatest", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "answer"], ["output"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
        numpy_helper.from_array(answer.astype(np.float32), "answer"),
    ]
    graph = helper.make_graph(nodes, "constant", [image], [output], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def yolov8_answer(people: Sequence[tuple[float, ...]], cells: int = 84, classes: int = 20) -> NDArray[np.float32]:
    """(1, 4 + classes, cells): rows of cx, cy, w, h, score of "person"; a cat with score 0.99 in the last cell."""
    answer = np.zeros((1, 4 + classes, cells), np.float32)
    for cell, person in enumerate(people):
        answer[0, :5, cell] = person
    if classes > 1:
        answer[0, :4, -1], answer[0, -1, -1] = (32, 32, 30, 30), 0.99
    return answer


def test_people_are_found_where_they_stand_and_nowhere_else(yolox: Detector, first_person: list[Frame]) -> None:
    for frame in first_person:
        found = yolox.detect(frame.image)
        if 6.5 <= frame.pts_s <= 18.6:
            assert len(found) == 1, frame.pts_s
            assert 0.84 <= found.scores[0] <= 0.91
            x1, y1, x2, y2 = found.boxes[0]
            assert 0 <= x1 < x2 <= 768
            assert 0 <= y1 < y2 <= 432
            assert y2 - y1 > x2 - x1  # upright
        elif frame.pts_s < 6 or frame.pts_s > 19.5:
            assert len(found) == 0, frame.pts_s


def test_the_box_is_tight_around_the_man(yolox: Detector) -> None:
    with open_frames(str(VIDEO)) as frames:
        image = next(frame.image for frame in frames if frame.index == 300)
    found = yolox.detect(image)
    # By eye in the drawn frame: head at y 5, soles at y 382, elbows at x 383 and 542.
    np.testing.assert_allclose(found.boxes, [[383, 5, 542, 382]], atol=12)
    assert found.scores[0] == pytest.approx(0.90, abs=0.01)
    assert found.tracks.tolist() == [NO_TRACK]
    assert [str(array.dtype) for array in (found.boxes, found.scores, found.tracks)] == ["float32", "float32", "int64"]
    assert yolox.layout.name == "YOLOX"
    assert yolox.input_size == (416, 416)


def test_an_upright_frame_is_scaled_back_as_well(yolox: Detector) -> None:
    with open_frames(str(VIDEO)) as frames:
        image = next(frame.image for frame in frames if frame.index == 300)
    whole = yolox.detect(image).boxes[0]
    part = yolox.detect(np.ascontiguousarray(image[:, 300:640])).boxes[0]
    np.testing.assert_allclose(part + np.array([300, 0, 300, 0]), whole, atol=15)


def test_the_threshold_counts(first_person: list[Frame]) -> None:
    standing = next(frame.image for frame in first_person if frame.pts_s >= 10)
    assert len(Detector.open(YOLOX_NANO, threshold=0.95).detect(standing)) == 0


def test_yolov8_boxes_come_back_from_a_centred_letterbox(tmp_path: Path) -> None:
    people = [(32, 32, 16, 24, 0.9), (10, 32, 4, 8, 0.6), (32, 34, 16, 24, 0.8), (50, 32, 8, 8, 0.4)]
    detector = Detector.open(constant_model(tmp_path / "v8.onnx", yolov8_answer(people)))
    assert detector.layout.name == "YOLOv8"
    found = detector.detect(np.zeros((100, 200, 3), np.uint8))
    # 200x100 in 64x64: scale 0.32, 32 rows high, 16 grey rows above. The third overlaps the first, the fourth is faint,
    # the cat is no person.
    expected = np.array([[24, 20, 40, 44], [8, 28, 12, 36]], np.float32)
    expected = (expected - np.array([0, 16, 0, 16], np.float32)) / 0.32
    np.testing.assert_allclose(found.boxes, np.clip(expected, 0, [200, 100, 200, 100]), atol=1e-3)
    np.testing.assert_allclose(found.scores, [0.9, 0.6])


def test_yolox_rows_are_offsets_and_log_sizes_on_their_cells(tmp_path: Path) -> None:
    answer = np.zeros((1, 84, 6), np.float32)  # one class: 5 + 1
    answer[0, 8 * 3 + 2] = (0.5, 0.25, np.log(2), np.log(3), 0.9, 0.8)  # stride 8, column 2, row 3
    answer[0, 64 + 4 * 1 + 2] = (0, 0, 0, 0, 0.9, 0.9)  # stride 16, column 2, row 1
    answer[0, 80 + 1] = (0.5, 0.5, 0, 0, 0.9, 0.5)  # stride 32: 0.45 is below the threshold
    detector = Detector.open(constant_model(tmp_path / "yolox.onnx", answer))
    assert detector.layout.name == "YOLOX"
    found = detector.detect(np.zeros((128, 128, 3), np.uint8))
    first, second = (32, 16, 16, 16), (2.5 * 8, 3.25 * 8, 16, 24)
    expected = [[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] for cx, cy, w, h in (first, second)]
    np.testing.assert_allclose(found.boxes, np.array(expected) * 2, atol=1e-3)
    np.testing.assert_allclose(found.scores, [0.81, 0.72], atol=1e-6)


@pytest.mark.parametrize(
    ("side", "declared", "cells", "input_side"),
    [
        pytest.param(64, (1, 24, "cells"), 84, 64, id="open output"),
        pytest.param(64, (None, None, None), 84, 64, id="nothing declared of the output"),
        pytest.param("side", (1, 24, "cells"), 8400, 640, id="open input"),
        pytest.param(128, None, 340, 128, id="pyramid up to stride 64"),
    ],
)
def test_open_shapes(tmp_path: Path, side: int | str, declared: Shape | None, cells: int, input_side: int) -> None:
    answer = yolov8_answer([(32, 32, 16, 24, 0.9)], cells)
    detector = Detector.open(constant_model(tmp_path / "open.onnx", answer, side=side, declared=declared))
    assert detector.input_size == (input_side, input_side)
    assert len(detector.detect(np.zeros((50, 50, 3), np.uint8))) == 1


def test_half_precision_input(tmp_path: Path) -> None:
    path = constant_model(tmp_path / "half.onnx", yolov8_answer([(32, 32, 16, 24, 0.9)]), dtype=TensorProto.FLOAT16)
    assert len(Detector.open(path).detect(np.zeros((50, 50, 3), np.uint8))) == 1


@pytest.mark.parametrize(
    ("answer", "arguments"),
    [
        pytest.param(np.zeros((1, 300, 6)), {}, id="suppression inside the graph"),
        pytest.param(np.zeros((1, 1008, 85)), {"side": 128}, id="YOLOv5, three anchors a cell"),
        pytest.param(np.zeros((1, 84, 5)), {}, id="YOLOX without classes"),
        pytest.param(np.zeros((1, 4, 84)), {}, id="YOLOv8 without classes"),
        pytest.param(np.zeros((2, 84, 25)), {}, id="two images"),
        pytest.param(np.zeros((84, 25)), {}, id="no batch axis"),
        pytest.param(np.zeros((1, 84, 85)), {}, id="fits both, with 64 input pixels"),
        pytest.param(np.zeros((1, 84, 25)), {"channels": 1}, id="grey input"),
        pytest.param(np.zeros((1, 84, 25)), {"dtype": TensorProto.UINT8}, id="byte input"),
        pytest.param(np.zeros((1, 84, 25)), {"side": 65}, id="input that strides do not divide"),
        pytest.param(np.zeros((1, 84, 25)), {"side": 100_000}, id="enormous input"),
    ],
)
def test_other_layouts_are_refused_by_shape(
    tmp_path: Path, answer: NDArray[np.float32], arguments: dict[str, Any]
) -> None:
    path = constant_model(tmp_path / "other.onnx", answer, **arguments)
    with pytest.raises(DetectorError) as caught:
        Detector.open(path)
    message = str(caught.value)
    shown = ", ".join(map(str, answer.shape))
    assert all(
        part in message for part in (str(path), f"output float32 ({shown})", "images ", "YOLOX (1, n, 5 +", "YOLOv8")
    )
    assert "\n" not in message


def test_files_that_are_no_detector(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="does not exist"):
        Detector.open(tmp_path / "missing.onnx")
    (tmp_path / "broken.onnx").write_bytes(YOLOX_NANO.read_bytes()[:100_000])
    with pytest.raises(EngineError, match=r"cannot load .*broken\.onnx"):
        Detector.open(tmp_path / "broken.onnx")


def test_a_graph_that_asks_for_more_memory_than_it_may_have(tmp_path: Path) -> None:
    """Three GiB from a file of a few hundred bytes."""
    text = """<ir_version: 9, opset_import: ["": 17]>
    greedy (float[1,3,64,64] images) => (float[1,84,6] output)
    <int64[2] large = {805306, 1000}, int64[3] shape = {1, 84, 6}>
    {
        mean = ReduceMean<keepdims = 0>(images)
        much = Expand(mean, large)
        least = ReduceMin<keepdims = 0>(much)
        output = Expand(least, shape)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "greedy.onnx")
    with pytest.raises(EngineError, match=r"ONNX Runtime failed on .*greedy\.onnx"):
        Detector.open(tmp_path / "greedy.onnx").detect(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("place", ["/etc/passwd", "../secret.bin"])
def test_a_graph_that_reads_other_files_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 84 * 6))
    folder = tmp_path / "detector"
    folder.mkdir()
    model = onnx.load(constant_model(folder / "reader.onnx", np.zeros((1, 84, 6), np.float32)))
    answer = model.graph.initializer[1]
    answer.ClearField("raw_data")
    answer.data_location = TensorProto.EXTERNAL
    answer.external_data.add(key="location", value=place)
    onnx.save(model, folder / "reader.onnx")
    with pytest.raises(EngineError, match=r"cannot load .*reader\.onnx"):
        Detector.open(folder / "reader.onnx")


@pytest.mark.parametrize("settings", [{"threshold": -0.1}, {"threshold": 1.5}, {"nms": float("nan")}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(DetectorError, match=r"must lie in 0\.\.1"):
        Detector.open(YOLOX_NANO, **settings)


def test_frames_that_are_none(yolox: Detector) -> None:
    for image in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(DetectorError, match="takes"):
            yolox.detect(image)


def test_a_frame_of_one_pixel_row(yolox: Detector) -> None:
    assert len(yolox.detect(np.zeros((1, 3000, 3), np.uint8))) == 0


@pytest.mark.parametrize("layout", ["YOLOX", "YOLOv8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_numbers_made_to_do_harm(tmp_path: Path, layout: str, value: float) -> None:
    shape = (1, 84, 25) if layout == "YOLOX" else (1, 24, 84)
    detector = Detector.open(constant_model(tmp_path / "hostile.onnx", np.full(shape, value)))
    assert len(detector.detect(np.zeros((50, 80, 3), np.uint8))) == 0


def test_harmful_numbers_beside_a_person_do_not_hide_it(tmp_path: Path) -> None:
    bad = [
        (np.nan, 1, 1, 1, 0.9),
        (1, 1, 1, 1, np.nan),
        (1, 1, np.inf, 1, 0.9),
        (1, 1, -5, 5, 0.9),
        (900, 9, 5, 5, 0.9),
    ]
    path = constant_model(tmp_path / "mixed.onnx", yolov8_answer([*bad, (32, 32, 16, 24, 0.8)]))
    found = Detector.open(path).detect(np.zeros((64, 64, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[24, 20, 40, 44]])


def test_boxes_end_at_the_frame(tmp_path: Path) -> None:
    path = constant_model(tmp_path / "large.onnx", yolov8_answer([(5, 32, 100, 300, 0.8)]))
    found = Detector.open(path).detect(np.zeros((64, 64, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[0, 0, 55, 64]])


def test_a_frame_full_of_boxes_is_bounded(tmp_path: Path) -> None:
    cells = grid_of(640, 640, (8, 16, 32))
    answer = yolov8_answer([], len(cells.cells), classes=1)
    answer[0, :2] = ((cells.cells + 0.5) * cells.strides).T
    answer[0, 2:4], answer[0, 4] = 2, 0.9
    found = Detector.open(constant_model(tmp_path / "full.onnx", answer, side=640)).detect(
        np.zeros((640, 640, 3), np.uint8)
    )
    assert len(found) == MAX_PEOPLE
