"""The run loop: people found in a source become events.

    frames -> people in each frame -> crops  |  encode  |  match, rank -> one event a person

The three parts run side by side in threads, with bounded room between them; events keep the order of the frames, and
what goes wrong in one part is raised where the events are taken. People of several frames share a run of the encoder:
of a recording those within `JOINED_S` of video; of a live stream whoever is waiting when the encoder is free, so that
no event waits for another frame to come.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, repeat

import numpy as np
from numpy.typing import NDArray

from runtime import events
from runtime.ahead import Ahead
from runtime.detection.detections import NO_TRACK, Detections
from runtime.encoder import Features
from runtime.events import Event
from runtime.images import cut, has_area, resize
from runtime.pipeline import MAX_BATCH, Identification, Pipeline, StageTimes
from runtime.sources.crops import Crop
from runtime.sources.frames import Frame

JOINED_S = 1.0
"""Longest span of a recording, in seconds of video, whose people are encoded together."""

# Crops that may wait for the encoder: two runs of it. A frame without people counts as one.
_CROPS_AHEAD = 2 * MAX_BATCH
# Encoded batches that may wait to be matched: the encoder is the slow part, so more would only fill memory.
_ENCODED_AHEAD = 1

FindPeople = Callable[[Frame], Detections]


@dataclass(frozen=True)
class Sighting:
    """One person in one frame, before anyone knows who it is.

    Attributes:
        frame: index of the frame in decoding order, or of the image in its folder.
        pts_s: presentation time in seconds; None for an image.
        box: x1, y1, x2, y2 in pixels of the frame.
        score: of the detector, or None.
        track: number in the box file, or None.
        camera: name of the camera, or None.
        image: name of the image file; None for a frame.
    """

    frame: int
    pts_s: float | None
    box: tuple[float, float, float, float]
    score: float | None = None
    track: int | None = None
    camera: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class Batch:
    """Sightings of one frame, or of some images, with their crops.

    Attributes:
        sightings: B of them.
        crops: (B, H, W, 3) uint8 of the encoder's size.
        times: what was spent on them so far.
        pts_s: time of the frame in seconds; None for images.
    """

    sightings: Sequence[Sighting]
    crops: NDArray[np.uint8]
    times: StageTimes = field(default_factory=StageTimes)
    pts_s: float | None = None


def people_in_frames(
    frames: Iterable[Frame], find: FindPeople, size: tuple[int, int], camera: str | None = None
) -> Iterator[Batch]:
    """Yield one batch for every frame; it is empty where there is nobody.

    Args:
        frames: decoded pictures.
        find: a detector, or a lookup in a box file.
        size: height and width of the encoder's crops.
        camera: name of the camera.
    """
    for frame in frames:
        times = StageTimes()
        with times.stage("detect"):
            people = find(frame)
        people = people[has_area(people.boxes, *frame.image.shape[:2])]
        with times.stage("crop"):
            crops = cut(frame.image, people.boxes, *size)
        yield Batch([_sighting(frame, people, row, camera) for row in range(len(people))], crops, times, frame.pts_s)


def people_in_crops(crops: Iterable[Crop], size: tuple[int, int], camera: str | None = None) -> Iterator[Batch]:
    """Yield the images of a folder in batches, the first one alone; a camera given here outdoes those in the names."""
    images = iter(crops)
    sizes = chain([1], repeat(MAX_BATCH))
    while part := list(islice(images, next(sizes))):
        times = StageTimes()
        with times.stage("crop"):
            pixels = np.stack([resize(crop.image, *size) for crop in part])
        yield Batch([_whole_image(crop, camera) for crop in part], pixels, times)


def watch(batches: Iterable[Batch], pipeline: Pipeline, source: str, *, live: bool = False) -> Generator[Event]:
    """Identify the people of every batch; yields an event a person, in order.

    Close it (`contextlib.closing`) where it may be left before its end.

    Args:
        batches: from `people_in_frames` or `people_in_crops`; run in a thread of its own.
        pipeline: who identifies them.
        source: name of the source.
        live: let nobody wait for people of later frames; else the same source gives the same batches every time.
    """
    with ExitStack() as stack:
        people = stack.enter_context(Ahead(batches, _CROPS_AHEAD, "find people", _weight))
        encoded = stack.enter_context(Ahead(_encoded(people, pipeline, live), _ENCODED_AHEAD, "encode"))
        stack.callback(people.stop)  # first of all, so that the encoding thread does not wait for more people
        for group in encoded:
            answers = [answer for query in group.queries for answer in pipeline.match(query, group.times)]
            yield from _events_of(group, answers, source)


@dataclass(frozen=True)
class _Encoded:
    """Batches that were encoded together, their features, and the times of what they shared."""

    batches: Sequence[Batch]
    queries: Sequence[Features]
    times: StageTimes


def _weight(batch: Batch) -> int:
    return max(1, len(batch.sightings))


def _encoded(people: Ahead[Batch], pipeline: Pipeline, live: bool) -> Iterator[_Encoded]:
    for group in _joined(people, live):
        times = StageTimes()
        crops = np.concatenate([batch.crops for batch in group])
        cameras = [sighting.camera for batch in group for sighting in batch.sightings]
        yield _Encoded(group, list(pipeline.encode(crops, cameras, times)), times)


def _joined(people: Ahead[Batch], live: bool) -> Iterator[list[Batch]]:
    """Put batches together that share a run of the encoder."""
    alone = not live  # the very first batch of a recording: nothing is to delay the first event
    for first in people:
        if not first.sightings:
            continue
        group, count = [first], len(first.sightings)
        while count < MAX_BATCH and not alone:
            try:
                batch = people.take(wait=not live, fits=partial(_fits, first, count))
            except Exception:  # it comes again at its place, after the people before it
                break
            if batch is None:
                break
            if batch.sightings:
                group.append(batch)
                count += len(batch.sightings)
        yield group
        alone = False


def _fits(first: Batch, count: int, batch: Batch) -> bool:
    """Whether a batch may join those from `first` on, `count` people so far."""
    if batch.pts_s is None or first.pts_s is None:
        return False
    return count + len(batch.sightings) <= MAX_BATCH and batch.pts_s - first.pts_s <= JOINED_S


def _events_of(group: _Encoded, answers: Sequence[Identification], source: str) -> Iterator[Event]:
    """Events in order; of the time of shared stages each batch has the share of its people."""
    at = 0
    for batch in group.batches:
        count = len(batch.sightings)
        share = count / len(answers)
        times = batch.times.ms | {name: share * ms for name, ms in group.times.ms.items()}
        for sighting, answer in zip(batch.sightings, answers[at : at + count], strict=True):
            yield _event(source, sighting, answer, times)
        at += count


def _event(source: str, sighting: Sighting, answer: Identification, times: dict[str, float]) -> Event:
    return Event(
        source=source,
        camera=sighting.camera,
        pts_s=sighting.pts_s,
        frame=sighting.frame,
        image=sighting.image,
        track=sighting.track,
        box=sighting.box,
        detector_score=sighting.score,
        identity=answer.identity,
        status=answer.status,
        similarity=answer.similarity,
        own_similarity=answer.own_similarity,
        neighbours=tuple(
            events.Neighbour(entry=near.entry, identity=near.identity, distance=near.distance)
            for near in answer.neighbours
        ),
        stage_ms=times,
    )


def _sighting(frame: Frame, people: Detections, row: int, camera: str | None) -> Sighting:
    x1, y1, x2, y2 = (float(value) for value in people.boxes[row])
    score, track = float(people.scores[row]), int(people.tracks[row])
    return Sighting(
        frame=frame.index,
        pts_s=frame.pts_s,
        box=(x1, y1, x2, y2),
        score=None if np.isnan(score) else score,
        track=None if track == NO_TRACK else track,
        camera=camera,
    )


def _whole_image(crop: Crop, camera: str | None) -> Sighting:
    height, width = crop.image.shape[:2]
    box = (0.0, 0.0, float(width), float(height))
    return Sighting(crop.index, None, box, camera=camera or crop.camera, image=crop.name)
