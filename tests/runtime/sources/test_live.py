"""Streams that break, freeze and come back, from a real server on this machine."""

import itertools
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from runtime.errors import SourceError
from runtime.sources.frames import Frame
from runtime.sources.live import LiveFrames
from runtime.sources.pace import LATE_S, on_time
from tests.runtime.sources.conftest import draw_video

Answer = Callable[[socket.socket], None]
HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n"


@contextmanager
def camera(answers: Sequence[Answer], port: int = 0) -> Iterator[int]:
    """An HTTP server that gives each connection the next of `answers`, and the last one from then on."""
    connections: list[int] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            connections.append(1)
            with suppress(OSError):
                self.request.sendall(HEADER)
                answers[min(len(connections), len(answers)) - 1](self.request)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", port), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield listening.server_address[1]
        finally:
            listening.shutdown()
            thread.join()


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}/live.ts"


def silent(client: socket.socket) -> None:
    client.settimeout(20)
    client.recv(1)  # until the client hangs up


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Sixteen seconds of video: opening a stream looks ahead some seconds."""
    path = tmp_path_factory.mktemp("live") / "v.ts"
    images = [np.full((48, 64, 3), index % 256, np.uint8) for index in range(400)]
    return draw_video(path, images, codec="mpeg2video", container="mpegts").read_bytes()


def check_goes_on(frames: list[Frame], least: int) -> None:
    times = [frame.pts_s for frame in frames]
    assert len(times) >= least
    assert all(before < after for before, after in itertools.pairwise(times))
    numbers = [frame.index for frame in frames]
    assert all(before < after for before, after in itertools.pairwise(numbers))


def test_a_camera_that_is_switched_off_and_on_again(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    def all_of_it(client: socket.socket) -> None:
        client.sendall(content)

    def then_stays(client: socket.socket) -> None:
        client.sendall(content)
        silent(client)

    found: list[Frame] = []
    with camera([all_of_it]) as port:
        frames = LiveFrames(url(port), timeout_s=20, first_wait_s=0.2)
        assert frames.paced
        stream = iter(frames)
        found += [next(stream) for _ in range(300)]
    # the server is gone; what is on its way still comes, then nobody answers
    back = threading.Thread(target=lambda: _serve_again(port, then_stays, frames), daemon=True)
    back.start()
    started = time.monotonic()
    for frame in stream:
        found.append(frame)
        if frames.breaks and len(found) > 700:
            frames.close()
    back.join()
    check_goes_on(found, 700)
    assert frames.breaks >= 1
    gap_s = max(after.pts_s - before.pts_s for before, after in itertools.pairwise(found))
    assert 0.2 < gap_s < time.monotonic() - started + 1  # the time in which there was no camera
    assert "connecting again" in caplog.text
    assert "is back after" in caplog.text


def _serve_again(port: int, answer: Answer, frames: LiveFrames) -> None:
    time.sleep(1)
    with camera([answer], port):
        deadline = time.monotonic() + 60
        while not frames._closed.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)


def test_a_camera_that_falls_silent_is_called_again(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    def half(client: socket.socket) -> None:
        client.sendall(content[: len(content) * 9 // 10])
        silent(client)

    found: list[Frame] = []
    with camera([half]) as port, LiveFrames(url(port), timeout_s=1, first_wait_s=0.1) as frames:
        for frame in frames:
            found.append(frame)
            if frames.breaks == 2:
                frames.close()
    check_goes_on(found, 600)
    assert caplog.text.count("broke off") == 2


def test_a_picture_that_freezes_while_the_sound_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "v.ts"
    with av.open(str(path), "w") as target:
        video, audio = target.add_stream("mpeg2video", rate=25), target.add_stream("mp2", rate=32_000)
        assert isinstance(video, av.VideoStream)
        assert isinstance(audio, av.AudioStream)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(150):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index, np.uint8), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            target.mux(video.encode(picture))
        target.mux(video.encode())
        for index in range(800):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1152), np.int16), format="s16", layout="stereo")
            sound.sample_rate, sound.pts, sound.time_base = 32_000, 1152 * index, Fraction(1, 32_000)
            target.mux(audio.encode(sound))
    content = path.read_bytes()

    def sound_goes_on(client: socket.socket) -> None:
        half = len(content) // 2
        client.sendall(content[:half])
        for at in range(half, len(content), 2000):
            client.sendall(content[at : at + 2000])
            time.sleep(0.05)

    found: list[Frame] = []
    with camera([sound_goes_on]) as port, LiveFrames(url(port), timeout_s=1, first_wait_s=0.1) as frames:
        for frame in frames:
            found.append(frame)
            if frames.breaks == 1:
                frames.close()
    check_goes_on(found, 100)
    assert "is frozen: packets come, but no new picture" in caplog.text


def test_closing_ends_the_waiting_for_a_camera(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def all_of_it(client: socket.socket) -> None:
        client.sendall(content)

    with camera([all_of_it]) as port:
        frames = LiveFrames(url(port), timeout_s=20, first_wait_s=0.1)
        stream = iter(frames)
        next(stream)
    closed_at: list[float] = []

    def close_once_it_waits() -> None:
        deadline = time.monotonic() + 60
        while "next try in" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        closed_at.append(time.monotonic())
        frames.close()

    closing = threading.Thread(target=close_once_it_waits)
    closing.start()
    assert len(list(stream)) > 390  # where a stream ends abruptly the decoder keeps a picture
    closing.join()
    assert time.monotonic() - closed_at[0] < 5
    assert "next try in" in caplog.text


def test_a_break_is_an_error_where_that_is_asked_for(content: bytes) -> None:
    def half(client: socket.socket) -> None:
        client.sendall(content[: len(content) * 9 // 10])
        silent(client)

    found: list[Frame] = []
    with (
        camera([half]) as port,
        LiveFrames(url(port), timeout_s=1, reconnect=False) as frames,
        pytest.raises(SourceError, match="broke off"),
    ):
        found.extend(frames)
    assert frames.breaks == 0


def test_an_address_that_was_wrong_from_the_start_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(SourceError, match="cannot be opened"):
        LiveFrames(url(port), timeout_s=5)


IMAGE = np.zeros((1, 1, 3), np.uint8)


def watched(delays_s: Sequence[float], work_s: float, clock_runs: float = 1.0, rate: int = 10) -> list[float]:
    """How late each frame is looked at, for `work_s`, of a stream whose frames come with these delays."""
    now = [1000.0]

    def stream() -> Iterator[Frame]:
        for index, delay_s in enumerate(delays_s):
            now[0] = max(now[0], 1000 + index / rate * clock_runs + delay_s)
            yield Frame(IMAGE, index / rate, index)

    found: list[float] = []
    for frame in on_time(stream(), "door", lambda: now[0]):
        found.append(now[0] - 1000 - clock_runs * frame.pts_s)
        now[0] += work_s
    return found


def test_a_machine_that_is_fast_enough_sees_every_frame() -> None:
    assert len(watched([0.0] * 6000, work_s=0.09)) == 6000
    assert len(watched([0.3 * (index % 3) for index in range(6000)], work_s=0.05)) == 6000
    stalls = [5.0 if 1000 <= index < 1030 else 0.0 for index in range(6000)]  # the network's fault, not the machine's
    assert len(watched(stalls, work_s=0.01)) == 6000


def test_clocks_that_drift_apart_cost_no_frame() -> None:
    for clock_runs in (0.998, 1.002):  # six seconds in 50 minutes; real ones do a hundredth of it
        assert len(watched([0.0] * 30_000, work_s=0.01, clock_runs=clock_runs)) == 30_000


def test_a_machine_that_is_too_slow_leaves_frames_out_and_stays_near(caplog: pytest.LogCaptureFixture) -> None:
    count = 6000
    found = watched([0.0] * count, work_s=0.25)
    assert count / 3 < len(found) < count / 2.4  # as many as there is time for
    assert LATE_S - 0.3 < max(found) <= LATE_S
    assert "this machine is" in caplog.text
    assert len(caplog.records) <= count / 10 / 10 + 1
