"""The JSON-lines sink: whole lines, whatever happens."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.errors import FpcError
from runtime.events import Event
from runtime.sinks import JsonLines


def event(frame: int, source: str = "door.mp4") -> Event:
    return Event(
        source=source,
        camera=None,
        pts_s=frame / 10,
        frame=frame,
        track=None,
        box=(0, 0, 1, 1),
        detector_score=0.5,
        identity=None,
        status="unknown",
        similarity=None,
        neighbours=(),
        stage_ms={},
    )


# Writes events for ever, to the file named on its command line or to standard output.
WRITER = """
import sys
from pathlib import Path
from runtime.sinks import JsonLines
from tests.runtime.test_sinks import event
with JsonLines(Path(sys.argv[1]) if len(sys.argv) > 1 else None) as sink:
    frame = 0
    while sink.write(event(frame, source="x" * 3000)):
        frame += 1
"""


def start_writer(*arguments: str) -> "subprocess.Popen[bytes]":
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def frames(path: Path) -> list[int]:
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


def test_events_are_lines_and_a_second_run_appends(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for start in (0, 2):
        with JsonLines(path) as sink:
            assert sink.write(event(start))
            assert sink.write(event(start + 1))
            assert sink.written == 2
    assert frames(path) == [0, 1, 2, 3]
    assert path.read_bytes().endswith(b"}\n")
    assert path.read_text().splitlines()[0] == event(0).to_json()


def test_a_line_is_in_the_file_once_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with JsonLines(path) as sink:
        sink.write(event(0))
        assert frames(path) == [0]


def test_half_a_line_of_an_earlier_run_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"schema":"fpc-dep')
    with JsonLines(path) as sink:
        sink.write(event(5))
    assert path.read_text().splitlines() == ['{"schema":"fpc-dep', event(5).to_json()]
    assert "ends with half a line" in caplog.text


def interrupt(writers: "list[subprocess.Popen[bytes]]", how: signal.Signals, path: Path) -> None:
    """Send a signal once the writers have written a good deal."""
    deadline = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size > 1_500_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    for writer in writers:
        writer.send_signal(how)
    try:
        for writer in writers:
            writer.communicate(timeout=30)
    finally:
        for writer in writers:
            writer.kill()  # one that goes on would fill the disk


def test_no_torn_line_after_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    interrupt([start_writer(str(path))], signal.SIGINT, path)
    assert path.read_bytes().endswith(b"\n")
    seen = frames(path)
    assert seen == list(range(len(seen)))
    assert len(seen) > 300


def test_after_a_kill_the_next_run_goes_on_with_a_new_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    interrupt([start_writer(str(path))], signal.SIGKILL, path)
    with JsonLines(path) as sink:
        sink.write(event(7))
    *before, last = path.read_text().splitlines()
    assert last == event(7).to_json()
    if not before[-1].endswith("}"):  # the kernel stopped the last write half way
        before.pop()
    assert [json.loads(line)["frame"] for line in before] == list(range(len(before)))
    assert len(before) > 300


def test_two_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    interrupt([start_writer(str(path)) for _ in range(2)], signal.SIGINT, path)
    assert path.read_bytes().endswith(b"\n")
    assert len(frames(path)) > 300  # every line parses


def test_standard_output(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with JsonLines(None) as sink:
        print("printed before")
        sink.write(event(1))
    assert capsysbinary.readouterr().out.decode().splitlines() == ["printed before", event(1).to_json()]


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    writer = start_writer()
    assert writer.stdout is not None
    assert json.loads(writer.stdout.readline())["frame"] == 0
    writer.stdout.close()
    assert writer.wait(timeout=30) == 0
    assert writer.stderr is not None
    assert writer.stderr.read() == b""
    writer.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_device_is_named() -> None:
    with (
        JsonLines(Path("/dev/full")) as sink,
        pytest.raises(FpcError, match="/dev/full cannot be written: No space left"),
    ):
        sink.write(event(0))


def test_a_file_that_may_not_grow_ends_with_a_whole_line(tmp_path: Path) -> None:
    # A limit on file size acts as a disk that fills up in the middle of a line.
    path = tmp_path / "events.jsonl"
    old, size = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), len(event(0).to_json()) + 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size * 5 // 2, hard))
        with JsonLines(path) as sink:
            assert sink.write(event(0))
            assert sink.write(event(1))
            with pytest.raises(FpcError, match=r"events\.jsonl cannot be written: File too large"):
                sink.write(event(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert frames(path) == [0, 1]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FpcError, match=r"nowhere/events\.jsonl cannot be opened for writing: No such file"):
        JsonLines(tmp_path / "nowhere" / "events.jsonl")
    with pytest.raises(FpcError, match="cannot be opened for writing: Is a directory"):
        JsonLines(tmp_path)


def test_closing_twice_and_writing_after(tmp_path: Path) -> None:
    def open_descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = open_descriptors()
    sink = JsonLines(tmp_path / "events.jsonl")
    sink.close()
    sink.close()
    assert not sink.write(event(0))
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{\n  "schema_version": 1\n}\n', id="a bundle"),
        pytest.param(b"\x00\x00\x00\x20ftypisom" * 10, id="a video"),
        pytest.param(b"notes", id="text"),
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(FpcError, match=r"file holds something else than events: nothing is appended"):
        JsonLines(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


def test_events_follow_on_events_and_on_half_of_one(tmp_path: Path) -> None:
    for start in ("", event(0).to_json() + "\n", event(0).to_json()[:9]):
        (tmp_path / "file").write_text(start)
        with JsonLines(tmp_path / "file") as sink:
            assert sink.write(event(1))
        assert (tmp_path / "file").read_text().endswith("\n" * bool(start) + event(1).to_json() + "\n")


def test_a_standard_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `fpc-deploy run ... >&-`."""
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(FpcError, match=r"standard output is closed: give a file to write to \(--out FILE\)"):
        JsonLines(None)
