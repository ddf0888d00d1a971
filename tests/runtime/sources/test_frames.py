"""Frames of real and damaged videos, of hostile files, and of streams that die."""

import logging
import socket
import socketserver
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from runtime.errors import SourceError
from runtime.sources import is_url, open_frames, shown
from tests.paths import VIDEO, YOLOX_NANO
from tests.runtime.sources.conftest import REMUXED_FRAMES, draw_video
from tests.runtime.sources.serving import Threads, serving

Remux = Callable[..., Path]

CONTAINERS = [
    pytest.param("v.ts", "mpegts", {}, id="mpeg-ts"),
    pytest.param("v.mkv", "matroska", {}, id="matroska"),
    pytest.param("v.mp4", "mp4", {"movflags": "faststart"}, id="mp4, index in front"),
    pytest.param("v.mp4", "mp4", {"movflags": "frag_keyframe+empty_moov"}, id="mp4, fragmented"),
]


def test_the_real_video_frame_by_frame() -> None:
    with open_frames(str(VIDEO)) as frames:
        assert not frames.live
        for count, frame in enumerate(frames):
            assert frame.index == count
            assert frame.pts_s == pytest.approx(count / 10)  # 10 frames a second, by its README
            assert frame.image.shape == (432, 768, 3)
            assert frame.image.dtype == np.uint8
            assert frame.image.flags.c_contiguous
            if count == 300:
                break
    assert frames.damaged == 0
    # The floor of that room is orange wood: red over green over blue, so the channels are in RGB order.
    red, green, blue = frame.image[300:430, 0:350].reshape(-1, 3).mean(axis=0)
    assert red > green + 30 > blue + 60


@pytest.mark.parametrize(("name", "container", "options"), CONTAINERS)
def test_whole_files_end_without_a_word(
    remux: Remux, caplog: pytest.LogCaptureFixture, name: str, container: str, options: dict[str, str]
) -> None:
    with open_frames(str(remux(name, container, **options))) as frames:
        assert len(list(frames)) == REMUXED_FRAMES
    assert caplog.records == []


@pytest.mark.parametrize(("name", "container", "options"), CONTAINERS[1:])
def test_an_end_in_the_middle_of_a_packet(
    remux: Remux, caplog: pytest.LogCaptureFixture, name: str, container: str, options: dict[str, str]
) -> None:
    path = remux(name, container, **options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with open_frames(str(path)) as frames:
        seen = [frame.pts_s for frame in frames]
    assert REMUXED_FRAMES * 0.4 < len(seen) < REMUXED_FRAMES * 0.9
    np.testing.assert_allclose(np.diff(seen), 0.1, atol=1e-6)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.getMessage()
    assert f"{seen[-1]:.3f} s" in record.getMessage()


def test_mpeg_ts_may_end_anywhere(remux: Remux, caplog: pytest.LogCaptureFixture) -> None:
    # It promises no length, so an end that the decoder can patch up passes for the real one.
    path = remux("v.ts", "mpegts")
    content = path.read_bytes()
    counts = []
    for tenths in range(2, 10):
        path.write_bytes(content[: len(content) * tenths // 10])
        caplog.clear()
        with open_frames(str(path)) as frames:
            counts.append(sum(1 for _ in frames))
        assert len(caplog.records) == min(1, frames.damaged)
    assert counts == sorted(counts)
    assert (counts[0] >= 5, counts[-1] < REMUXED_FRAMES) == (True, True)


def test_the_real_video_cut_in_a_packet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(VIDEO.read_bytes()[:200_001])
    with open_frames(str(path)) as frames:
        count = sum(1 for _ in frames)
    assert 10 < count < 1394
    assert len(caplog.records) == 1


def test_an_index_at_the_end_that_is_cut_off(remux: Remux) -> None:
    path = remux("v.mp4", "mp4")  # FFmpeg writes the index last unless told otherwise
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(SourceError, match=r"v\.mp4 is not a video file, or is cut off before its index"):
        open_frames(str(path))


def test_damage_in_the_middle_is_passed_over(remux: Remux, caplog: pytest.LogCaptureFixture) -> None:
    path = remux("v.ts", "mpegts")
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 20_000, 301):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with open_frames(str(path)) as frames:
        seen = [frame.pts_s for frame in frames]
    assert REMUXED_FRAMES * 0.7 < len(seen) < REMUXED_FRAMES
    assert (seen[0], seen[-1]) == pytest.approx((0.1, 6.0))
    assert frames.damaged > 0
    assert len(caplog.records) == 1


def test_frames_keep_their_number_past_damage(tmp_path: Path) -> None:
    """Files of boxes go by it: a frame that damage swallowed counts, or all later boxes are those of other frames."""
    images = list(np.random.default_rng(0).integers(0, 256, (100, 96, 128, 3), np.uint8))
    draw_video(tmp_path / "v.mp4", images, codec="mpeg4")
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    half, noise = len(content) // 2, np.random.default_rng(0).bytes(len(content) // 8)
    content[half : half + len(noise)] = noise
    (tmp_path / "v.mp4").write_bytes(content)
    with open_frames(str(tmp_path / "v.mp4")) as frames:
        found = [(frame.index, frame.pts_s) for frame in frames]
    assert 10 < len(found) < 100
    assert found[-1][0] == 99
    assert [index for index, _ in found] == [round(25 * pts) for _, pts in found]


def test_frames_keep_their_number_past_damage_before_the_first_of_them(tmp_path: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (60, 96, 128, 3), np.uint8))
    draw_video(tmp_path / "v.mp4", images, codec="mpeg4")
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    first = content.index(b"mdat") + 4
    content[first : first + len(content) // 4] = np.random.default_rng(0).bytes(len(content) // 4)
    (tmp_path / "v.mp4").write_bytes(content)
    with open_frames(str(tmp_path / "v.mp4")) as frames:
        found = [(frame.index, frame.pts_s) for frame in frames]
    assert found[0][0] > 0
    assert found[-1][0] == 59
    assert [index for index, _ in found] == [round(25 * pts) for _, pts in found]


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("sound_first", [False, True])
def test_the_last_frames_come_wherever_the_sound_is(tmp_path: Path, count: int, sound_first: bool) -> None:
    with av.open(str(tmp_path / "v.mp4"), "w") as target:
        if sound_first:
            sound = target.add_stream("aac", rate=8000)
        video = target.add_stream("libx264", rate=10, options={"bf": "2"})  # B-frames: the decoder holds some back
        if not sound_first:
            sound = target.add_stream("aac", rate=8000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(count):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * index, np.uint8), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 10)
            target.mux(video.encode(picture))
        target.mux(video.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        target.mux(sound.encode(silence))
        target.mux(sound.encode())
    with av.open(str(tmp_path / "v.mp4")) as made:
        assert made.streams.video[0].index == int(sound_first)
    with open_frames(str(tmp_path / "v.mp4")) as frames:
        assert [round(10 * frame.pts_s) for frame in frames] == list(range(count))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nv.mp4\n#EXT-X-ENDLIST\n", id="hls"),
        pytest.param("list.mp4", "ffconcat version 1.0\nfile v.mp4\n", id="concat"),
        pytest.param("text.txt", "a text file is a teletype video to FFmpeg\n" * 50, id="text"),
    ],
)
def test_a_file_never_opens_another(remux: Remux, tmp_path: Path, name: str, content: str) -> None:
    remux("v.mp4", "mp4", movflags="faststart")
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(SourceError, match=f"{name} is not a video file.*: no supported container"):
        open_frames(str(path))


def test_files_that_are_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceError, match=r"empty\.mp4 is empty"):
        open_frames(str(tmp_path / "empty.mp4"))
    with pytest.raises(SourceError, match=r"missing\.mp4 does not exist"):
        open_frames(str(tmp_path / "missing.mp4"))
    with pytest.raises(SourceError, match="is not a file"):
        open_frames(str(tmp_path))
    with pytest.raises(SourceError, match=r"yolox_nano\.onnx is not a video file"):
        open_frames(str(YOLOX_NANO))


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("pcm_s16le", rate=8000)
        assert isinstance(stream, av.AudioStream)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        target.mux(stream.encode(sound))
    with pytest.raises(SourceError, match=r"has no video stream \(it holds: audio\)"):
        open_frames(str(path))


def test_a_raw_stream_without_times_is_refused(remux: Remux) -> None:
    with (
        open_frames(str(remux("v.h264", "h264"))) as frames,
        pytest.raises(SourceError, match="gives its frames no time"),
    ):
        list(frames)


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_a_phone_held_sideways(tmp_path: Path, rotation: int, turns: int) -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16] = 255
    path = draw_video(tmp_path / "turned.mp4", [image] * 3, codec="mpeg4", rotation=rotation)
    with open_frames(str(path)) as frames:
        shown_image = next(iter(frames)).image
    expected = np.rot90(image, turns)
    assert shown_image.shape == expected.shape
    assert np.abs(shown_image[4::8, 4::8].astype(int) - expected[4::8, 4::8]).max() < 10


def test_a_camera_that_changes_its_resolution(tmp_path: Path) -> None:
    parts = [
        draw_video(
            tmp_path / f"{side}.ts",
            [np.full((side, side, 3), 128, np.uint8)] * 8,
            codec="mpeg2video",
            container="mpegts",
        )
        for side in (64, 96)
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_frames(str(path)) as frames:
        shapes = [frame.image.shape for frame in frames]
    assert shapes[0] == (64, 64, 3)
    assert shapes[-1] == (96, 96, 3)


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A local HTTP address; `answer` has the connection once the request has been read."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            with suppress(OSError):  # the client hangs up, as it should
                answer(self.request)

    with serving(Threads(("127.0.0.1", 0), Handler)) as address:
        yield f"{address}/live.ts"


def header(length: int | None = None) -> bytes:
    """An HTTP answer's first part; a live stream has no length."""
    lines = ["HTTP/1.1 200 OK", "Content-Type: video/mp2t", "Connection: close"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_stream_over_http(remux: Remux) -> None:
    content = remux("v.ts", "mpegts").read_bytes()
    with (
        server(lambda client: client.sendall(header(len(content)) + content)) as url,
        open_frames(url, timeout_s=5) as frames,
    ):
        assert frames.live
        assert len(list(frames)) == REMUXED_FRAMES


def test_a_server_that_never_answers_is_an_error_in_time() -> None:
    started = time.monotonic()
    with (
        server(lambda client: time.sleep(4)) as url,
        pytest.raises(SourceError, match=r"cannot be opened within 0\.5 s"),
    ):
        open_frames(url, timeout_s=0.5)
    assert time.monotonic() - started < 3


def test_a_stream_that_falls_silent_is_an_error_in_time(tmp_path: Path) -> None:
    # Opening looks ahead some seconds of video: silence must come after that.
    noise = np.random.default_rng(1).integers(0, 256, (400, 96, 128, 3), dtype=np.uint8)
    content = draw_video(tmp_path / "v.ts", list(noise), codec="mpeg2video", container="mpegts").read_bytes()

    def half(client: socket.socket) -> None:
        client.sendall(header() + content[: len(content) * 9 // 10])
        time.sleep(6)

    arrived: list[float] = []  # when each frame came
    with server(half) as url, open_frames(url, timeout_s=1) as frames, pytest.raises(SourceError, match="broke off"):
        arrived.extend(time.monotonic() for _ in frames)
    assert len(arrived) > 100
    assert time.monotonic() - arrived[-1] < 5


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(SourceError, match=r"rtsp://\*\*\*@127\.0\.0\.1.*refused") as caught:
        open_frames(f"rtsp://admin:secret@127.0.0.1:{port}/x", timeout_s=5)
    assert "secret" not in str(caught.value)


def test_a_playlist_from_the_network_never_opens_a_local_file() -> None:
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{VIDEO.resolve()}\n#EXT-X-ENDLIST\n".encode()
    answer = header(len(playlist)) + playlist
    # FFmpeg may not touch the playlist's only segment, so no stream is ever seen.
    refused = pytest.raises(SourceError, match=r"cannot be opened|has no video stream")
    with server(lambda client: client.sendall(answer)) as url, refused:
        open_frames(url.replace("live.ts", "live.m3u8"), timeout_s=3)


@pytest.mark.parametrize("source", ["ftp://host/v.mp4", "file:///etc/passwd", "gopher://x", "concat://a|b"])
def test_other_schemes_are_refused(source: str) -> None:
    with pytest.raises(SourceError, match="scheme that is not supported: use rtsp"):
        open_frames(source)


@pytest.mark.parametrize(
    ("source", "url", "as_shown"),
    [
        ("door.mp4", False, "door.mp4"),
        ("rtsp://cam/1", True, "rtsp://cam/1"),
        ("rtsp://me:pa@ss@cam:554/1?x=2", True, "rtsp://***@cam:554/1?x=2"),
        ("rtsp://[broken", True, "rtsp://…"),
        ("concat:a.ts|b.ts", False, "concat:a.ts|b.ts"),
    ],
)
def test_addresses_are_shown_without_passwords(source: str, url: bool, as_shown: str) -> None:
    assert is_url(source) is url
    assert shown(source) == as_shown
