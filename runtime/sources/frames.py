"""Frames of a video file or a stream, one at a time, each with the time the video itself gives it."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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

from runtime.ahead import Ahead
from runtime.errors import SourceError
from runtime.sources.opening import STREAM_TIMEOUT_S, cause, is_segmented, is_url, open_container, shown, video_stream

log = logging.getLogger(__name__)

# A recording whose last frame is this long before the end that its header promises was cut short.
MISSING_END_S = 1.0

# Bytes of a live stream that may wait to be decoded: far more than come within `_HOPELESS_S`.
_BYTES_AHEAD = 2**25
_BYTES_OF_A_PACKET = 1000  # what holding it takes besides its data

# What a machine that is too slow makes good of the time that the network lost, as a share of the time of the video.
_MADE_GOOD = 0.2

# So far behind the caller gets only if leaving out frames (see `on_time`) does not help: decoding itself is too slow.
_HOPELESS_S = 4.0


@dataclass(frozen=True)
class Frame:
    """One decoded picture.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright; H and W may change from frame to frame.
        pts_s: presentation time in seconds, on the clock of the file or stream.
        index: position in decoding order, counted from 0; damaged frames are counted and not shown.
        waited: False where it lay ready, so that whoever looks at a camera is behind, or its network was.
    """

    image: NDArray[np.uint8]
    pts_s: float
    index: int
    waited: bool = True


class Lateness:
    """How late whoever looks at a stream is.

    That cannot be read off the times of frames alone: the camera's clock is its own, and drifts. But a frame that had
    to be waited for is not late, and how late another one is, is counted from there.

    Attributes:
        late: whether the last frame was, by more than `limit_s`, or one before it and nothing was made good since.
    """

    def __init__(self, limit_s: float) -> None:
        self.late = False
        self._limit_s = limit_s
        self._too_slow = False  # whoever looks, since the last frame that was waited for
        self._last_s = 0.0
        self._least_delay_s = float("inf")

    def of(self, pts_s: float, waited: bool, now: float) -> float:
        """Seconds by which the frame of this time is late; to be called for every frame."""
        delay_s = now - pts_s
        if waited:
            self._too_slow, self._least_delay_s = False, delay_s
        elif self._too_slow:
            # What the network or a drifting clock brought besides is made good, too, but little by little.
            self._least_delay_s -= _MADE_GOOD * (pts_s - self._last_s)
        # Where the network held up frames they come faster than the clock afterwards: that is not being late.
        self._least_delay_s = min(self._least_delay_s, delay_s)
        late_s, self._last_s = delay_s - self._least_delay_s, pts_s
        self.late = late_s > self._limit_s or (self.late and late_s > 0)
        self._too_slow = self._too_slow or self.late
        return late_s


class VideoFrames:
    """An opened video or stream: iterate over it once, inside a `with` block. Holds one frame at a time.

    Of a paced stream a thread of its own reads the packets, so that it is known which were waited for and which lay
    ready. What is not decoded in time is passed over up to a key frame.

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
        self._guard = threading.Lock()  # of the two below
        self._inside_count = 0
        self._closed = False
        self._container = open_container(source, timeout_s)
        try:
            self._stream = video_stream(self._container, self.name)
        except SourceError:
            self._container.close()
            raise
        self.endless = self.live and self._container.duration is None
        self.paced = self.endless and not is_segmented(self._container)
        self._timeout_s = float(self._container.read_timeout or timeout_s)
        self._ahead = (
            # A thread that sits in a read ends when that does: nobody waits for it.
            Ahead(self._packets(), _BYTES_AHEAD, "read stream", _weight, patience_s=0) if self.paced else None
        )
        rate, start, unit = self._stream.average_rate, self._stream.start_time, self._stream.time_base
        self._rate = float(rate) if rate else None
        # Where a frame before the first one would be; None where that is not known.
        self._before_first_s = float(start * unit - 1 / rate) if rate and start is not None and unit else None
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
        with self._guard:
            self._closed = True
            self._close_if_free()
        if self._ahead:
            self._ahead.stop()

    def _close_if_free(self) -> None:
        if self._closed and not self._inside_count:
            self._container.close()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Inside FFmpeg: meanwhile nobody closes the container."""
        with self._guard:
            self._inside_count += 1
        try:
            yield
        finally:
            with self._guard:
                self._inside_count -= 1
                self._close_if_free()

    def __iter__(self) -> Iterator[Frame]:
        """Yield what can be decoded; a damaged or missing end is logged once, when the end is reached.

        Raises:
            SourceError: a stream falls silent or breaks, frames have no time, or nothing at all can be decoded.
        """
        self._moved_at = time.monotonic()
        before_s, damaged = self._before_first_s, self.damaged
        lateness, waited, passing_over = Lateness(_HOPELESS_S), False, False
        for packet, had_to_wait in self._taken():
            waited = waited or had_to_wait
            if passing_over and waited and packet.is_keyframe and packet.stream is self._stream:
                passing_over = False
                self._stream.codec_context.flush_buffers()
            for picture in [] if passing_over else self._decode(packet):
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
                behind_s = lateness.of(picture.time, waited, time.monotonic())
                yield Frame(_upright(picture), picture.time, index, waited)
                waited = False
                if not stands_still:
                    self._moved_at = time.monotonic()  # the time that the caller took is not the camera's
                if self.paced and lateness.late:
                    log.warning(
                        "%s: %.0f s behind: going on at a key frame. Where this comes again and again, this machine is "
                        "too slow even to decode it: have the camera send a smaller picture",
                        self.name,
                        behind_s,
                    )
                    passing_over = True
                    break
            if self.live and time.monotonic() - self._moved_at > self._timeout_s:
                raise SourceError(f"stream {self.name} is frozen: packets come, but no new picture")
        if not self._closed:
            self._report_end()

    def _lost_between(self, before_s: float | None, now_s: float | None) -> int:
        """Frames of a file that damage swallowed, by its rate: files of boxes count them, too."""
        if self.live or not self._rate or before_s is None or now_s is None:
            return 0
        return max(0, round((now_s - before_s) * self._rate) - 1)

    def _taken(self) -> "Iterator[tuple[Packet[Any], bool]]":
        """Packets, and whether each had to be waited for; that is known of paced streams only."""
        if self._ahead is None:
            yield from ((packet, True) for packet in self._packets())
            return
        with self._ahead as ahead:
            while True:
                packet, had_to_wait = ahead.take(wait=False), False
                if packet is None:
                    packet, had_to_wait = ahead.take(), True
                if packet is None:
                    return
                yield packet, had_to_wait

    def _packets(self) -> "Iterator[Packet[Any]]":
        """Packets until the end, or until somebody closes the container."""
        # Of a live stream everything is looked at: its sound may go on where its picture has frozen.
        packets: Iterator[Packet[Any]] = self._container.demux(*([] if self.live else [self._stream]))
        while True:
            with self._inside():
                try:
                    packet = None if self._closed else next(packets, None)
                except av.error.FFmpegError as error:
                    if self.live and not self._closed:
                        raise SourceError(self._broke_off(cause(error))) from error
                    self.damaged += 1  # of a file, what came before the broken place is good
                    return
            if packet is None:
                return
            yield packet

    def _broke_off(self, why: str) -> str:
        if self.endless:
            return f"stream {self.name} broke off: {why}"
        return (
            f"recording {self.name} broke off after {self._last_s or 0:.3f} s: {why}; what came before is good. "
            "Fetch the whole file and run on that"
        )

    def _decode(self, packet: "Packet[Any]") -> list[VideoFrame]:
        # The packets that flush the decoder at the end say 0 for their `stream_index`, whatever their stream.
        if packet.stream is not self._stream:
            return []
        with self._inside():
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


def _weight(packet: "Packet[Any]") -> int:
    return packet.size + _BYTES_OF_A_PACKET


def _upright(picture: VideoFrame) -> NDArray[np.uint8]:
    image = picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    quarter_turns = round(picture.rotation / 90) % 4  # a display matrix, as phones write; counter-clockwise
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
