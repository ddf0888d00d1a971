"""Crops a second through the loop of `run`, which reads, encodes and matches side by side in batches of its own."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path

from runtime.ahead import map_ahead
from runtime.images import read_image
from runtime.pipeline import MAX_BATCH, Pipeline
from runtime.sources.crops import Crop
from runtime.stream import people_in_crops, watch

_READ_AHEAD = 2 * MAX_BATCH
_WARM_UP = 1 + 2 * MAX_BATCH  # the first crop goes alone


def run_crops_per_s(pipeline: Pipeline, pictures: Sequence[Path], batches: int | None, seconds: float) -> float:
    """Identify pictures as `run` identifies those of a folder; return crops a second after warm-up.

    Args:
        pipeline: that identifies them.
        pictures: files, taken in turn.
        batches: of `MAX_BATCH` crops, to measure; None measures for `seconds`.
        seconds: to measure for, one batch at least.
    """
    size = pipeline.bundle.manifest.preprocessing
    people = people_in_crops(_crops(pictures), (size.height, size.width))
    with closing(watch(people, pipeline, "bench")) as events:
        _take(events, _WARM_UP)
        start, done = time.perf_counter(), 0
        while True:
            _take(events, MAX_BATCH)
            done += 1
            taken = time.perf_counter() - start
            if taken >= seconds if batches is None else done >= batches:
                return done * MAX_BATCH / taken


def _crops(pictures: Sequence[Path]) -> Iterator[Crop]:
    with closing(map_ahead(read_image, cycle(pictures), _READ_AHEAD)) as reading:
        for index, (path, image) in enumerate(reading):
            yield Crop(image.result(), path.name, None, index)


def _take(events: Iterator[object], count: int) -> None:
    for _ in islice(events, count):
        pass
