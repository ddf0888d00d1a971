"""Keeps up with a live stream on a machine that is too slow for all of it: some frames are left out, and it is said.

How late a frame is cannot be read off one frame: the camera's clock is its own. So the least delay seen of late is
taken for none, and a frame whose delay is larger by `LATE_S` is late. From then on frames are left out until one is
hardly late at all, so that events tell of now and not of ever longer ago.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator

from runtime.sources.frames import Frame

log = logging.getLogger(__name__)

LATE_S = 2.0
CAUGHT_UP_S = 0.2

# The least delay is that of the last one to two windows: clocks drift apart by some ms in that time, no more.
WINDOW_S = 60.0
_SAID_EVERY_S = 10.0


def on_time(frames: Iterable[Frame], name: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Frame]:
    """Yield the frames that are not late; how many were left out is logged at most every ten seconds.

    Args:
        frames: of a live stream, with times that never go back.
        name: of the stream, for the log.
        clock: of this machine, in seconds.
    """
    pace = _Pace()
    late = False
    seen = left_out = 0
    said_at = float("-inf")
    for frame in frames:
        now = clock()
        behind_s = pace.behind_s(now, now - frame.pts_s)
        late = behind_s > (CAUGHT_UP_S if late else LATE_S)
        seen, left_out = seen + 1, left_out + late
        if left_out and now - said_at >= _SAID_EVERY_S:
            log.warning(
                "%s: this machine is %.1f s behind; %d of the last %d frames left out", name, behind_s, left_out, seen
            )
            said_at, seen, left_out = now, 0, 0
        if not late:
            yield frame


class _Pace:
    """Remembers the least delay of the last one to two windows."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._least = self._least_before = float("inf")

    def behind_s(self, now: float, delay_s: float) -> float:
        """How much larger a delay is than the least of late, in seconds."""
        if now - self._began >= WINDOW_S:
            self._began, self._least_before, self._least = now, self._least, delay_s
        self._least = min(self._least, delay_s)
        return delay_s - min(self._least, self._least_before)
