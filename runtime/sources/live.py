"""Frames of a stream that comes back: a camera that is switched off and on again is the same camera.

A camera that breaks off or freezes is opened again, first after a second, then after twice as long each time up to half
a minute, until it answers or the caller has had enough. The time of its frames goes on by the clock of this machine, so
that events are in order whatever the camera's own clock does when it starts anew. A recording on a server is not opened
again: it would be looked at from its beginning once more.
"""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType

from runtime.errors import SourceError
from runtime.sources.frames import Frame, open_frames
from runtime.sources.opening import STREAM_TIMEOUT_S, shown

log = logging.getLogger(__name__)

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0


class LiveFrames:
    """A stream whose times never go back, opened again when it breaks: iterate over it once, inside a `with` block.

    Another thread than the one that iterates may close it: iteration then ends.

    Args:
        source: URL, see `open_frames`.
        timeout_s: silence, in seconds, after which the stream is dead.
        first_wait_s: before it is opened again the first time, in seconds; doubled each time up to `LONGEST_WAIT_S`.
        reconnect: open it again at all; without it a break is an error.

    Attributes:
        name: the source as it may be shown; passwords are masked.
        breaks: how often the stream broke off so far.

    Raises:
        SourceError: it cannot be opened the first time: then it is the address that is wrong.
    """

    def __init__(
        self,
        source: str,
        timeout_s: float = STREAM_TIMEOUT_S,
        first_wait_s: float = FIRST_WAIT_S,
        *,
        reconnect: bool = True,
    ) -> None:
        self.name = shown(source)
        self.breaks = 0
        self._source = source
        self._timeout_s = timeout_s
        self._reconnect = reconnect
        self._first_wait_s = self._wait_s = first_wait_s
        self._closed = threading.Event()
        self._frames = open_frames(source, timeout_s)
        self._clock = _Clock()

    def __enter__(self) -> "LiveFrames":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def paced(self) -> bool:
        """Whether it comes at the pace of the clock; see `VideoFrames`."""
        return self._frames.paced

    def close(self) -> None:
        """Close the connection, and give up waiting for it."""
        self._closed.set()
        self._frames.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the stream is closed; a recording on a server ends where it ends.

        Raises:
            SourceError: frames have no time, not one can be decoded, or it broke off and is not to be opened again: by
                the caller's wish, or because it is a recording.
        """
        while not self._closed.is_set():
            try:
                for frame in self._frames:
                    self._wait_s = self._first_wait_s
                    yield self._clock.follow(frame)
                if not (self._reconnect and self._frames.endless):
                    return
                why = f"stream {self.name} ended"
            except SourceError as error:
                # Where not a single frame came it is the stream that is wrong, not the network.
                if not (self._reconnect and self._frames.endless and self._clock.running):
                    raise
                why = str(error)
            if not self._closed.is_set():
                self._reopen(why)

    def _reopen(self, why: str) -> None:
        self.breaks += 1
        self._frames.close()
        self._clock.pause()
        began = time.monotonic()
        log.warning("%s: connecting again", why)
        while not self._closed.wait(self._wait_s):
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            try:
                self._frames = open_frames(self._source, self._timeout_s)
            except SourceError as error:
                log.info("%s; next try in %.0f s", error, self._wait_s)
                continue
            log.warning("stream %s is back after %.0f s", self.name, time.monotonic() - began)
            if self._closed.is_set():  # closed while it was being opened
                self._frames.close()
            return


class _Clock:
    """Gives the frames of one connection after the other times and numbers that never go back."""

    def __init__(self) -> None:
        self.running = False
        self._last_s = 0.0
        self._seen_at = 0.0
        self._shift_s = 0.0
        self._next_index = self._shift = 0
        self._paused = False

    def pause(self) -> None:
        """The connection is gone: the next frame has a clock of its own."""
        self._paused = self.running
        self._shift = self._next_index

    def follow(self, frame: Frame) -> Frame:
        """The frame by this clock: as far after the last one as it came later, where its own clock began anew."""
        now = time.monotonic()
        if self._paused or (self.running and frame.pts_s + self._shift_s < self._last_s):
            self._shift_s = self._last_s + now - self._seen_at - frame.pts_s
        self.running, self._paused = True, False
        self._last_s, self._seen_at = frame.pts_s + self._shift_s, now
        self._next_index = self._shift + frame.index + 1
        return replace(frame, pts_s=self._last_s, index=self._shift + frame.index)
