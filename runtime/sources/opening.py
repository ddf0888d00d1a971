"""Opening a video file or a stream with FFmpeg, without letting it open anything else.

FFmpeg looks at content, not at names: a file called `film.mp4` may be a playlist that makes it read other files or call
other machines, and a text file is "a video" of a teletype. So it is told which containers it may see and over which
protocols: a local file opens itself only, a stream opens the network only.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import av
import av.container
import av.error
import av.stream
from av.video.stream import VideoStream

from runtime.errors import SourceError

STREAM_SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "rtp", "tcp", "srt")

# What those schemes are built on, and what an HLS playlist is made of; `file` is left out on purpose.
STREAM_PROTOCOLS = (*STREAM_SCHEMES, "tls", "srtp", "crypto", "httpproxy", "rtmpt", "rtmpts")

# Containers of recordings. FFmpeg's name, one for each demuxer.
FILE_CONTAINERS = (
    *("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "flv", "asf", "ogg", "ivf", "mxf"),
    *("h264", "hevc", "mjpeg", "mpjpeg", "obu", "av1", "dv", "gxf", "rm"),
)
STREAM_CONTAINERS = (*FILE_CONTAINERS, "live_flv", "hls", "dash", "rtsp", "rtp", "sdp", "aac", "mp3", "webvtt")

# 8K UHD is 33.2 million pixels; a larger frame is a mistake or an attack.
MAX_FRAME_PIXELS = 2**25

STREAM_TIMEOUT_S = 10.0

# Streams that come as files of some seconds each, by FFmpeg's names. It does not tell how many seconds: ten are common,
# and a whole file is silence. So what is silence is this many times as long for them.
SEGMENTED = {"hls", "dash"}
SEGMENTED_PATIENCE = 6


def is_url(source: str) -> bool:
    """Whether `source` names a stream and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def shown(source: str) -> str:
    """Return `source` as it may be shown and logged: the user name and password of a URL are masked."""
    if not is_url(source):
        return source
    try:
        parts = urlsplit(source)
    except ValueError:  # brackets that are no address
        return f"{source.split('://', 1)[0]}://…"
    if "@" not in parts.netloc:
        return source
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]))


def open_container(source: str, timeout_s: float = STREAM_TIMEOUT_S) -> "av.container.InputContainer":
    """Open a video file, or a stream whose silence of more than `timeout_s` is an error.

    Of an endless stream that comes in segments it is a silence `SEGMENTED_PATIENCE` times as long; `read_timeout` of
    the container tells.

    Raises:
        SourceError: no such file, no video container, a scheme that is not supported, or nobody answers.
    """
    if is_url(source):
        return _open_stream(source, timeout_s)
    path = Path(source)
    try:
        if not path.is_file():
            raise SourceError(f"{source} is not a file" if path.exists() else f"{source} does not exist")
        if path.stat().st_size == 0:
            raise SourceError(f"{source} is empty (0 bytes)")
    except (OSError, ValueError) as error:
        raise SourceError(f"{shown(source)} cannot be read: {cause(error)}") from error
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(FILE_CONTAINERS),
        "max_pixels": str(MAX_FRAME_PIXELS),
    }
    try:
        return av.open(f"file:{path.absolute()}", "r", options=options)
    except (av.error.FFmpegError, ValueError) as error:
        # What a container that is not on the list is answered with.
        why = "no supported container" if isinstance(error, av.error.ArgumentError) else cause(error)
        raise SourceError(f"{source} is not a video file, or is cut off before its index: {why}") from error


def _open_stream(source: str, timeout_s: float) -> "av.container.InputContainer":
    scheme = source.split("://", 1)[0].lower()
    if scheme not in STREAM_SCHEMES:
        raise SourceError(f"{shown(source)} has a scheme that is not supported: use {', '.join(STREAM_SCHEMES)}")
    options = {
        "protocol_whitelist": ",".join(STREAM_PROTOCOLS),
        "format_whitelist": ",".join(STREAM_CONTAINERS),
        "max_pixels": str(MAX_FRAME_PIXELS),
    }
    if scheme.startswith("rtsp"):
        options["rtsp_flags"] = "prefer_tcp"  # a packet lost over UDP smears every frame until the next key frame
    try:
        container = av.open(source, "r", options=options, timeout=timeout_s)
        if container.duration is None and is_segmented(container):
            container.close()  # the timeout is settled at opening, and only now it is known what was opened
            container = av.open(source, "r", options=options, timeout=(timeout_s, SEGMENTED_PATIENCE * timeout_s))
        return container
    except (av.error.FFmpegError, ValueError) as error:
        raise SourceError(
            f"stream {shown(source)} cannot be opened within {timeout_s:g} s: {cause(error)}; check address and camera"
        ) from error


def is_segmented(container: "av.container.InputContainer") -> bool:
    """Whether it comes as files of some seconds each."""
    return bool(SEGMENTED & set(container.format.name.split(",")))


def video_stream(container: "av.container.InputContainer", name: str) -> VideoStream:
    """Return the first video stream that is no cover picture.

    Raises:
        SourceError: there is none, no decoder for it, or its frames are too large.
    """
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        others = ", ".join(stream.type for stream in container.streams) or "nothing"
        raise SourceError(f"{name} has no video stream (it holds: {others})")
    context = streams[0].codec_context
    if context is None:
        raise SourceError(f"{name} has a video stream that no decoder here can read: convert it to H.264")
    if context.width * context.height > MAX_FRAME_PIXELS:
        raise SourceError(f"{name} is {context.width}x{context.height}, more than {MAX_FRAME_PIXELS:,} pixels")
    # The decoder must refuse it as well: a stream may change its size on the way.
    context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return streams[0]


def cause(error: Exception) -> str:
    """Say what FFmpeg or the system objected to, without the address (it may hold a password)."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
