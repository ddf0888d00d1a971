"""Keeps up with a live stream on a machine that is too slow for all of it: some frames are left out, and it is said.

One that is more than `LATE_S` late is left out, and so are those after it until that time is made good: events tell of
now, and not of ever longer ago. Where the network was late and not the machine, nothing is left out.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator

from runtime.sources.frames import Frame, Lateness

log = logging.getLogger(__name__)

LATE_S = 2.0

_SAID_EVERY_S = 10.0


def on_time(frames: Iterable[Frame], name: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Frame]:
    """Yield the frames that are not late; how many were left out is logged at most every ten seconds.

    Args:
        frames: of a live stream, with times that never go back.
        name: of the stream, for the log.
        clock: of this machine, in seconds.
    """
    lateness = Lateness(LATE_S)
    said_at = float("-inf")
    seen = left_out = 0
    for frame in frames:
        now = clock()
        behind_s = lateness.of(frame.pts_s, frame.waited, now)
        seen, left_out = seen + 1, left_out + lateness.late
        if left_out and now - said_at >= _SAID_EVERY_S:
            log.warning(
                "%s: this machine is too slow, %.1f s behind: %d of the last %d frames are left out",
                name,
                behind_s,
                left_out,
                seen,
            )
            said_at, seen, left_out = now, 0, 0
        if not lateness.late:
            yield frame
