"""Keeps up with a live stream on a machine that is too slow for all of it: some frames are left out, and it is said.

How late a frame is cannot be read off its time alone: the camera's clock is its own, and drifts. But a frame that had
to be waited for is not late. Measured from the last such frame, one that is more than `LATE_S` late is left out, and so
are those after it until one has to be waited for again: events tell of now, and not of ever longer ago.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator

from runtime.sources.frames import Frame

log = logging.getLogger(__name__)

LATE_S = 2.0

# A frame that took longer to come than this share of the time between it and the one before was waited for; one that
# lay ready takes as long as it takes to decode.
_WAITED_SHARE = 0.5
_SAID_EVERY_S = 10.0


def on_time(frames: Iterable[Frame], name: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Frame]:
    """Yield the frames that are not late; how many were left out is logged at most every ten seconds.

    Args:
        frames: of a live stream, with times that never go back.
        name: of the stream, for the log.
        clock: of this machine, in seconds.
    """
    late = False
    least_delay_s = float("inf")
    said_at = asked_at = last_pts_s = float("-inf")
    seen = left_out = 0
    for frame in frames:
        now = clock()
        delay_s = now - frame.pts_s
        if now - asked_at >= _WAITED_SHARE * (frame.pts_s - last_pts_s):
            late, least_delay_s = False, delay_s
        least_delay_s = min(least_delay_s, delay_s)
        behind_s = delay_s - least_delay_s
        late = late or behind_s > LATE_S
        seen, left_out, last_pts_s = seen + 1, left_out + late, frame.pts_s
        if left_out and now - said_at >= _SAID_EVERY_S:
            log.warning(
                "%s: this machine is too slow, %.1f s behind: %d of the last %d frames are left out",
                name,
                behind_s,
                left_out,
                seen,
            )
            said_at, seen, left_out = now, 0, 0
        if not late:
            yield frame
        asked_at = clock()
