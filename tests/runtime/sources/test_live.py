"""Streams that break, freeze and come back, from a real server on this machine."""

import http.server
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
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet

from runtime.errors import SourceError
from runtime.sources import frames as frames_module
from runtime.sources import pace
from runtime.sources.frames import Frame, VideoFrames
from runtime.sources.live import LiveFrames
from runtime.sources.pace import LATE_S, on_time
from tests.runtime.sources.conftest import draw_video
from tests.runtime.sources.serving import Threads, serving

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


def test_closing_ends_a_read_from_a_silent_camera_at_once(content: bytes) -> None:
    def half(client: socket.socket) -> None:
        client.sendall(content[: len(content) * 9 // 10])
        silent(client)

    found: list[Frame] = []
    closed_at: list[float] = []

    def close_once_it_is_silent(frames: LiveFrames) -> None:
        seen, deadline = -1, time.monotonic() + 60
        while (len(found) < 300 or len(found) > seen) and time.monotonic() < deadline:
            seen = len(found)
            time.sleep(0.3)
        closed_at.append(time.monotonic())
        frames.close()

    with camera([half]) as port, LiveFrames(url(port), timeout_s=20) as frames:
        closing = threading.Thread(target=close_once_it_is_silent, args=(frames,))
        closing.start()
        found.extend(frames)
        assert time.monotonic() - closed_at[0] < 5
        closing.join()
    assert len(found) > 300


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


def test_a_recording_on_a_server_that_breaks_off_is_not_begun_again(tmp_path: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (100, 48, 64, 3), np.uint8))
    content = draw_video(tmp_path / "v.mkv", images, codec="mpeg4").read_bytes()
    opened: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
            opened.append(first)
            self.send_response(206)
            self.send_header("Content-Length", str(len(content) - first))
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            self.wfile.write(content[first : len(content) // 2])  # the connection drops half way

        def log_message(self, *_: object) -> None: ...

    found: list[Frame] = []
    with (
        serving(Threads(("127.0.0.1", 0), Handler)) as address,
        LiveFrames(f"{address}/v.mkv", timeout_s=5, first_wait_s=0.01) as frames,
        pytest.raises(SourceError, match=r"recording .*v\.mkv broke off after (1|2)\.\d+ s: .*Fetch the whole file"),
    ):
        found.extend(itertools.islice(frames, 300))
    assert 25 < len(found) < 75
    assert [frame.index for frame in found] == list(range(len(found)))
    assert frames.breaks == 0


def test_segments_take_their_time_and_are_not_frozen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """HLS of segments that last longer than the silence that is allowed to a camera."""
    length_s, count = 0.8, 20
    segments = []
    for number in range(6):
        path = tmp_path / f"{number}.ts"
        with av.open(str(path), "w", format="mpegts") as target:
            stream = target.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for index in range(count):
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * number, np.uint8), format="rgb24")
                picture.pts, picture.time_base = number * count + index, Fraction(1, 25)
                target.mux(stream.encode(picture))
            target.mux(stream.encode())
        segments.append(path.read_bytes())
    began = [time.monotonic()]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/0.ts":
                began[0] = time.monotonic()  # the camera starts when somebody opens the stream, however long that took
            if self.path.endswith(".m3u8"):
                done = min(len(segments), 2 + int((time.monotonic() - began[0]) / length_s))
                lines = [f"#EXTINF:{length_s},\n{number}.ts" for number in range(done)]
                answer = "\n".join(["#EXTM3U", "#EXT-X-TARGETDURATION:1", *lines, ""]).encode()
            else:
                answer = segments[int(self.path.strip("/.ts"))]
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    seen: list[int] = []
    with (
        serving(Threads(("127.0.0.1", 0), Handler)) as address,
        LiveFrames(f"{address}/live.m3u8", timeout_s=0.6, first_wait_s=0.01) as frames,
    ):
        assert not frames.paced
        for frame in frames:
            seen.append(round(float(frame.image.mean()) / 30))
            if seen[-1] == 3:
                frames.close()
    assert frames.breaks == 0
    assert "frozen" not in caplog.text
    assert [seen.count(number) for number in range(3)] == [count] * 3  # nobody is reported twice


def slow_decoder(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    decode = VideoFrames._decode

    def slowly(frames: VideoFrames, packet: "Packet[Any]") -> list[av.VideoFrame]:
        time.sleep(seconds)
        return decode(frames, packet)

    monkeypatch.setattr(VideoFrames, "_decode", slowly)


def test_decoding_is_not_waiting(
    content: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A camera's frames lie ready, and each takes most of its time to be decoded: who looks at them falls behind."""
    monkeypatch.setattr(pace, "LATE_S", 0.2)
    slow_decoder(monkeypatch, 0.03)  # of the 0.04 between two frames

    def all_of_it(client: socket.socket) -> None:
        client.sendall(content)
        silent(client)

    looked_at = 0
    with camera([all_of_it]) as port, LiveFrames(url(port), timeout_s=20) as frames:

        def clock() -> float:
            if "this machine is too slow" in caplog.text:
                frames.close()
            return time.monotonic()

        for _ in on_time(frames, "door", clock):
            looked_at += 1
            if looked_at == 40:
                break
            time.sleep(0.03)
    assert 0 < looked_at < 40


def test_where_even_decoding_is_too_slow_it_goes_on_at_a_key_frame(
    content: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frames_module, "_HOPELESS_S", 0.2)
    slow_decoder(monkeypatch, 0.06)

    def most_of_it_and_then_the_rest(client: socket.socket) -> None:
        most = len(content) * 8 // 10
        client.sendall(content[:most])
        deadline = time.monotonic() + 20
        while "going on at a key frame" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)  # what was sent is passed over
        client.sendall(content[most:])
        silent(client)

    found: list[Frame] = []
    with camera([most_of_it_and_then_the_rest]) as port, LiveFrames(url(port), timeout_s=20) as frames:
        for frame in frames:
            found.append(frame)
            if len(found) > 100 or frame.pts_s - found[0].pts_s > 12.8:
                break
    gap_s = max(after.pts_s - before.pts_s for before, after in itertools.pairwise(found))
    assert gap_s > 10
    assert len(found) < 60


IMAGE = np.zeros((1, 1, 3), np.uint8)


def watched(
    delays_s: Sequence[float],
    work_s: float,
    clock_runs: float = 1.0,
    rate: float = 10,
    decode_s: float = 0.0,
    times_s: Sequence[float] | None = None,
) -> list[float]:
    """How late each frame is looked at, for `work_s`, of a stream whose frames come with these delays."""
    now = [1000.0]

    def stream() -> Iterator[Frame]:
        arrived = 0.0
        for index, delay_s in enumerate(delays_s):
            pts_s = times_s[index] if times_s else index / rate
            arrived = max(arrived, 1000 + pts_s * clock_runs + delay_s)  # none overtakes another
            waited = now[0] < arrived
            now[0] = max(now[0], arrived) + decode_s
            yield Frame(IMAGE, pts_s, index, waited)

    found: list[float] = []
    for frame in on_time(stream(), "door", lambda: now[0]):
        found.append(now[0] - 1000 - clock_runs * frame.pts_s)
        now[0] += work_s
    return found


JITTER = [float(delay) for delay in np.random.default_rng(0).exponential(0.05, 3000)]
STALLS = [8 - (index % 1000) / 20 if index % 1000 < 160 and index > 900 else 0.0 for index in range(3000)]
"""At 20 frames a second the network sends nothing for eight seconds, and then all of it at once."""


@pytest.mark.parametrize("delays_s", [[0.0] * 3000, JITTER, STALLS], ids=["even", "jitter", "stalls"])
@pytest.mark.parametrize("decode_share", [0.1, 0.45, 0.55, 0.75])
@pytest.mark.parametrize("load", [0.8, 0.97, 1.03, 1.5, 4.0])
def test_lateness_is_bounded_and_who_keeps_up_sees_all(delays_s: list[float], decode_share: float, load: float) -> None:
    interval_s = 1 / 20
    work_s = (load - decode_share) * interval_s
    found = watched(delays_s, work_s, rate=20, decode_s=decode_share * interval_s)
    if load < 1:
        assert len(found) == len(delays_s)
    assert max(found) <= LATE_S + max(delays_s) + interval_s
    if load == 4.0:
        there_is_time_for = (1 - decode_share) / (load - decode_share) * len(delays_s)
        assert len(found) < 1.1 * there_is_time_for + LATE_S / interval_s
        assert len(found) > (0.5 if delays_s is STALLS else 0.8) * there_is_time_for
        assert found[-1] <= LATE_S + interval_s + max(delays_s[-500:])  # what a stall brought is made good again


@pytest.mark.parametrize(("work_s", "keeps_up"), [(0.012, True), (0.03, True), (0.2, False)])
def test_frames_at_varying_times(work_s: float, keeps_up: bool) -> None:
    """A camera that sends 25 frames a second of what moves, for two seconds, and 2 a second of what does not."""
    moving, still = [index / 25 for index in range(50)], [2 + index / 2 for index in range(4)]
    times_s = [4 * block + time_s for block in range(100) for time_s in moving + still]
    found = watched([0.0] * len(times_s), work_s, decode_s=0.025, times_s=times_s)
    assert (len(found) == len(times_s)) is keeps_up
    assert max(found) <= LATE_S + 0.1


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
