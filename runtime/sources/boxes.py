"""Boxes that another program found, in the MOTChallenge text format.

A line is `frame,id,left,top,width,height[,conf[,class,visibility,...]]`; frames count from 1 (MOT16, arXiv 1603.00831,
section 4.3). Coordinates are taken as they stand: the benchmark's own files count pixels from 1, nearly all trackers
from 0, and the difference of one pixel is not worth guessing.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.detection.detections import NO_TRACK, Detections
from runtime.errors import SourceError

MIN_FIELDS = 6
MAX_FIELDS = 10

# Trackers write -1 where they have no confidence.
NO_CONFIDENCE = -1.0

# Beyond any frame number, track, pixel or confidence, and exact in float32 for pixels.
MAX_FRAME = 2**31
MAX_TRACK = 2**53
MAX_PIXEL = 2.0**24
MAX_CONFIDENCE = 1e9


@dataclass(frozen=True)
class Boxes:
    """All boxes of a file, by frame.

    Attributes:
        name: path of the file.
        frames: (n,) int64 frame numbers from 1, ascending.
        detections: the n boxes, in the order of `frames`.
    """

    name: str
    frames: NDArray[np.int64]
    detections: Detections

    def __len__(self) -> int:
        return len(self.frames)

    def at(self, index: int) -> Detections:
        """Return the boxes of the frame with this index in decoding order, counted from 0 as `Frame.index`."""
        first, end = np.searchsorted(self.frames, [index + 1, index + 2])
        return self.detections[int(first) : int(end)]


@dataclass(frozen=True)
class _Row:
    frame: int
    track: int
    box: tuple[float, float, float, float]
    score: float


def read_mot(path: Path) -> Boxes:
    """Read a MOTChallenge file. Rows with confidence 0 are left out: in ground truth they are marked "ignore".

    Raises:
        SourceError: the file cannot be read, or a line is malformed; the message holds its number.
    """
    try:
        if path.exists() and not path.is_file():  # a named pipe would block for ever
            raise SourceError(f"{path} is not a file")
        with path.open(encoding="utf-8-sig") as file:
            rows = [row for number, line in enumerate(file, 1) if (row := _row(line, f"{path}, line {number}"))]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise SourceError(f"{path} cannot be read as a box file: {reason}") from error
    rows.sort(key=lambda row: row.frame)  # stable: within a frame the order of the file stays
    return Boxes(
        str(path),
        np.array([row.frame for row in rows], np.int64),
        Detections(
            np.array([row.box for row in rows], np.float32).reshape(-1, 4),
            np.array([row.score for row in rows], np.float32),
            np.array([row.track for row in rows], np.int64),
        ),
    )


def _row(line: str, where: str) -> _Row | None:
    """Parse one line; None for a blank one and for one that is marked "ignore"."""
    if not line.strip():
        return None
    fields = line.split(",")
    if not MIN_FIELDS <= len(fields) <= MAX_FIELDS:
        raise SourceError(
            f"{where}: {len(fields)} fields where {MIN_FIELDS} to {MAX_FIELDS} are expected "
            "(frame,id,left,top,width,height,conf,class,visibility)"
        )
    try:
        values = [float(field) for field in fields]
    except ValueError:
        raise SourceError(f"{where}: a field is not a number: {line.strip()[:80]!r}") from None
    frame, track, left, top, width, height = values[:MIN_FIELDS]
    if not all(math.isfinite(value) for value in values):
        raise SourceError(f"{where}: a value is not finite")
    if frame != int(frame) or not 1 <= frame <= MAX_FRAME:
        raise SourceError(f"{where}: the frame number is {frame:g}, frames count from 1")
    if track != int(track) or not NO_TRACK <= track <= MAX_TRACK:
        raise SourceError(f"{where}: the id is {track:g}, it must be a whole number from 0, or -1 for none")
    if width <= 0 or height <= 0:
        raise SourceError(f"{where}: the box has width {width:g} and height {height:g}, both must be positive")
    if max(abs(left), abs(top), width, height) > MAX_PIXEL:
        raise SourceError(f"{where}: the box reaches beyond any frame")
    score = values[MIN_FIELDS] if len(values) > MIN_FIELDS else NO_CONFIDENCE
    if abs(score) > MAX_CONFIDENCE:
        raise SourceError(f"{where}: the confidence is {score:g}, it must be within {MAX_CONFIDENCE:g}")
    if score == 0:
        return None
    box = (left, top, left + width, top + height)
    return _Row(int(frame), int(track), box, math.nan if score == NO_CONFIDENCE else score)
