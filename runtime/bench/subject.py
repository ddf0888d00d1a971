"""The process that is measured: it opens a bundle and a gallery as `run` does, and identifies pictures.

A process of its own, so that its start can be timed and its memory is nobody else's. `python -m runtime.bench.subject`
reads a `Task` from standard input and writes lines of JSON: when the first crop is identified, and at the end.
"""

import json
import logging
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from runtime.bench.throughput import run_crops_per_s
from runtime.bundle import Bundle
from runtime.errors import FpcError
from runtime.gallery import Gallery
from runtime.heaps import share_heaps
from runtime.images import read_image, resize
from runtime.pipeline import Pipeline, StageTimes

WARM_UP = 3
LEAST_REPEATS = 20
"""Batches measured at least where a time is given: fewer have no 95th percentile."""


@dataclass(frozen=True)
class Task:
    """What to measure.

    Attributes:
        bundle: folder.
        gallery: folder.
        pictures: files, taken in turn.
        batch: crops at a time.
        engine: as for `Pipeline`.
        threads: likewise.
        repeats: batches to measure; None measures for `seconds`.
        seconds: to measure for.
        run_too: then measure the loop of `run`, whose batches are its own.
    """

    bundle: str
    gallery: str
    pictures: tuple[str, ...]
    batch: int
    engine: str
    threads: int | None
    repeats: int | None
    seconds: float
    run_too: bool = False


def main() -> None:
    """Measure what standard input asks for; an `FpcError` becomes a line too."""
    share_heaps()  # as `run` does
    logging.basicConfig(level=logging.WARNING, handlers=[_Said()])
    task = Task(**json.load(sys.stdin))
    try:
        measure(task)
    except FpcError as error:
        say(event="error", kind=type(error).__name__, message=str(error))
        sys.exit(1)


def measure(task: Task) -> None:
    """Identify pictures and write what it took."""
    bundle = Bundle.open(task.bundle)
    with closing(Gallery.open(task.gallery, bundle.binding)) as gallery:
        pipeline = Pipeline(bundle, gallery, None, task.engine, task.threads)
        pictures = [Path(name) for name in task.pictures]
        identify(pipeline, pictures[:1])
        say(event="first")
        gallery.warm_up()  # `run` searches exactly until a thread has loaded HNSW: that would be measured as well
        batches = groups(pictures, task.batch)
        for group in islice(batches, WARM_UP):
            identify(pipeline, group)
        taken: list[dict[str, float]] = []
        start = time.perf_counter()
        while not _enough(task, len(taken), time.perf_counter() - start):
            taken.append(identify(pipeline, next(batches)))
        peak = peak_rss_mb()
        rate = run_crops_per_s(pipeline, pictures, task.repeats, task.seconds) if task.run_too else None
        say(event="done", batches=taken, peak_rss_mb=peak, run_crops_per_s=rate)


def identify(pipeline: Pipeline, pictures: Sequence[Path]) -> dict[str, float]:
    """Identify pictures in one batch; return milliseconds by stage, and the `total` on the clock."""
    size = pipeline.bundle.manifest.preprocessing
    times, start = StageTimes(), time.perf_counter()
    with times.stage("preprocess"):
        crops = np.stack([resize(read_image(picture), size.height, size.width) for picture in pictures])
    pipeline.identify(crops, None, times)
    return {**times.ms, "total": 1e3 * (time.perf_counter() - start)}


def groups(pictures: Sequence[Path], batch: int) -> Iterator[list[Path]]:
    """Yield groups of pictures without end, all pictures in turn."""
    without_end = cycle(pictures)
    while True:
        yield list(islice(without_end, batch))


def peak_rss_mb() -> float:
    """Return the most memory that this process had resident, in units of 10^6 bytes.

    Linux carries `getrusage`'s figure over from the process that started this one, so its own count comes first.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")) / 1e6
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class _Said(logging.Handler):
    """Turns what the runtime logs into lines of JSON; standard error is left to libraries that write what they like."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        say(event="warning", message=record.getMessage())


def say(**content: object) -> None:
    """Write one line of JSON to standard output."""
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def as_input(task: Task) -> str:
    """Return what `main` reads."""
    return json.dumps(asdict(task))


def _enough(task: Task, done: int, seconds: float) -> bool:
    if task.repeats is not None:
        return done >= task.repeats
    return done >= LEAST_REPEATS and seconds >= task.seconds


if __name__ == "__main__":
    main()
