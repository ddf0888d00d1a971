"""Whether a bundle is faster than another on this machine: lower precision is not faster everywhere."""

import time
from dataclasses import dataclass

import numpy as np

from runtime.bundle import Bundle
from runtime.encoder import Encoder

WARM_UP = 3
REPEATS = 15


@dataclass(frozen=True)
class Speed:
    """Time of the query encoder for one crop, median over repeats.

    Attributes:
        precision: of the bundle.
        engine: that ran it.
        milliseconds: for one crop.
    """

    precision: str
    engine: str
    milliseconds: float


def compare_speed(first: Bundle, second: Bundle, engine: str = "auto", repeats: int = REPEATS) -> tuple[Speed, Speed]:
    """Time the query encoders of two bundles by turns, so that whatever else the machine does slows both.

    Args:
        first: one bundle.
        second: another, of the same crop size.
        engine: that runs both.
        repeats: runs of each that count.
    """
    bundles = (first, second)
    encoders = [Encoder(bundle, sparse=True, engine=engine) for bundle in bundles]
    size = first.manifest.preprocessing
    crop = np.random.default_rng(0).integers(0, 256, (1, size.height, size.width, 3), dtype=np.uint8)
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_UP + repeats):
        for encoder, times in zip(encoders, taken, strict=True):
            start = time.perf_counter()
            encoder.encode(crop)
            if turn >= WARM_UP:
                times.append(time.perf_counter() - start)
    speeds = [
        Speed(bundle.manifest.precision, encoder.engine_name, 1e3 * float(np.median(times)))
        for bundle, encoder, times in zip(bundles, encoders, taken, strict=True)
    ]
    return speeds[0], speeds[1]


def verdict_on_speed(reference: Speed, candidate: Speed) -> str:
    """Return one line that says whether `candidate` is the faster one."""
    ratio = reference.milliseconds / candidate.milliseconds
    figures = f"{candidate.milliseconds:.1f} ms against {reference.milliseconds:.1f} ms a crop on {candidate.engine}"
    if ratio > 1:
        return f"{candidate.precision} is {ratio:.1f} times as fast as {reference.precision} here ({figures})"
    return (
        f"{candidate.precision} is NOT faster than {reference.precision} here ({figures}): "
        f"use the {reference.precision} bundle on machines like this one"
    )
