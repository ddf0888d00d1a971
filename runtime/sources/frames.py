"""Frames of a video file or a stream, one at a time, each with the time the video itself gives it."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import av
import av.container
import av.error
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from runtime.errors import SourceError
from runtime.sources.opening import STREAM_TIMEOUT_S, cause, is_url, open_container, shown, video_stream

log = logging.getLogger(__name__)

# A recording whose last frame is this long before the end that its header promises was cut short.
MISSING_END_S = 1.0

# FFmpeg's names of streams that come as files of some seconds each.
_SEGMENTED = {"hls", "dash"}


@dataclass(frozen=True)
class Frame:
    """One decoded picture.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright; H and W may change from frame to frame.
        pts_s: presentation time in seconds, on the clock of the file or stream.
        index: position in decoding order, counted from 0; damaged frames are counted and not shown.
    """

    image: NDArray[np.uint8]
    pts_s: float
    index: int


class VideoFrames:
    """An opened video or stream: iterate over it once, inside a `with` block. Holds one frame at a time.

    Another thread than the one that iterates may close it: iteration then ends.

    Attributes:
        name: the source as it may be shown; passwords are masked.
        live: whether it is a stream.
        endless: whether it is a stream that says of no end: a camera, not a recording on a server.
        paced: whether it is endless and comes at the pace of the clock, not in segments.
        damaged: packets and frames that could not be decoded so far.
    """

    def __init__(self, source: str, timeout_s: float = STREAM_TIMEOUT_S) -> None:
        self.name = shown(source)
        self.live = is_url(source)
        self.damaged = 0
        self._timeout_s = timeout_s
        self._busy = threading.Lock()  # held by whoever is inside FFmpeg
        self._closed = False
        self._container = open_container(source, timeout_s)
        try:
            self._stream = video_stream(self._container, self.name)
        except SourceError:
            self._container.close()
            raise
        self.endless = self.live and self._container.duration is None
        self.paced = self.endless and not _SEGMENTED & set(self._container.format.name.split(","))
        self._decoded = 0
        self._last_s: float | None = None
        self._moved_at = time.monotonic()  # when the time of the pictures last went on

    def __enter__(self) -> "VideoFrames":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file or connection; a thread that is reading from it does so itself as soon as it is back."""
        self._closed = True
        if self._busy.acquire(blocking=False):
            try:
                self._container.close()
            finally:
                self._busy.release()

    def __iter__(self) -> Iterator[Frame]:
        """Yield what can be decoded; a damaged or missing end is logged once, when the end is reached.

        Raises:
            SourceError: a stream falls silent or breaks, frames have no time, or nothing at all can be decoded.
        """
        # Of a live stream everything is looked at: its sound may go on where its picture has frozen.
        packets = self._container.demux() if self.live else self._container.demux(self._stream)
        self._moved_at = time.monotonic()
        before_s, damaged = None, self.damaged
        while (pictures := self._next(packets)) is not None:
            for picture in pictures:
                if self.damaged > damaged:
                    self._decoded += self._lost_between(before_s, picture.time)
                before_s, damaged = picture.time, self.damaged
                index, self._decoded = self._decoded, self._decoded + 1
                if picture.time is None and self._last_s is None:
                    raise SourceError(f"{self.name} gives its frames no time (a raw stream?): put it into MP4 or MKV")
                # A frame marked corrupt was made up by the decoder from its neighbours: nobody was seen there.
                if picture.is_corrupt or picture.time is None:
                    self.damaged += 1
                    continue
                stands_still, self._last_s = picture.time == self._last_s, picture.time
                yield Frame(_upright(picture), picture.time, index)
                if not stands_still:
                    self._moved_at = time.monotonic()  # the time that the caller took is not the camera's
            if self.live and time.monotonic() - self._moved_at > self._timeout_s:
                raise SourceError(f"stream {self.name} is frozen: packets come, but no new picture")
        if not self._closed:
            self._report_end()

    def _lost_between(self, before_s: float | None, now_s: float | None) -> int:
        """Frames of a file that damage swallowed, by its rate: files of boxes count them, too."""
        rate = self._stream.average_rate
        if self.live or not rate or before_s is None or now_s is None:
            return 0
        return max(0, round((now_s - before_s) * float(rate)) - 1)

    def _next(self, packets: "Iterator[Packet[Any]]") -> list[VideoFrame] | None:
        """Pictures of the next packet; None at the end, and once somebody has closed the container."""
        with self._busy:
            try:
                packet = None if self._closed else next(packets, None)
                if packet is None:
                    return None
                return self._decode(packet) if packet.stream_index == self._stream.index else []
            except av.error.FFmpegError as error:
                if self.live and not self._closed:
                    raise SourceError(f"stream {self.name} broke off: {cause(error)}") from error
                self.damaged += 1  # of a file, what came before the broken place is good
                return None
            finally:
                if self._closed:
                    self._container.close()

    def _decode(self, packet: "Packet[Any]") -> list[VideoFrame]:
        try:
            return [frame for frame in packet.decode() if isinstance(frame, VideoFrame)]
        except av.error.FFmpegError:
            self.damaged += 1
            return []

    def _report_end(self) -> None:
        if self._last_s is None:
            raise SourceError(f"{self.name}: not one frame can be decoded ({self.damaged} damaged packets)")
        promised = self._promised_end_s()
        if self.damaged:
            log.warning("%s: %d damaged packets or frames; last good frame at %.3f s", *self._state())
        elif promised is not None and promised - self._last_s > MISSING_END_S:
            log.warning("%s ends at %.3f s of %.3f s: it was cut short", self.name, self._last_s, promised)

    def _state(self) -> tuple[str, int, float | None]:
        return self.name, self.damaged, self._last_s

    def _promised_end_s(self) -> float | None:
        """End of the video by the header of its container."""
        if self.live:
            return None
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        if self._container.duration is None:
            return None
        return float(((self._container.start_time or 0) + self._container.duration) / av.time_base)


def open_frames(source: str, timeout_s: float = STREAM_TIMEOUT_S) -> VideoFrames:
    """Open a video file or a stream URL.

        with open_frames("door.mp4") as frames:
            for frame in frames:
                ...

    Args:
        source: path, or URL with one of `STREAM_SCHEMES`.
        timeout_s: silence of a stream, in seconds, after which it is dead.

    Raises:
        SourceError: it cannot be opened, or holds no video.
    """
    return VideoFrames(source, timeout_s)


def _upright(picture: VideoFrame) -> NDArray[np.uint8]:
    image = picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    quarter_turns = round(picture.rotation / 90) % 4  # a display matrix, as phones write; counter-clockwise
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
