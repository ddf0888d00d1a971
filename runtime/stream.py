"""The run loop: people found in a source become events.

frames -> people in each frame -> crops -> `Pipeline.identify` -> one event a person
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from runtime import events
from runtime.detection.detections import NO_TRACK, Detections
from runtime.events import Event
from runtime.images import cut, has_area, resize
from runtime.pipeline import MAX_BATCH, Identification, Pipeline, StageTimes
from runtime.sources.crops import Crop
from runtime.sources.frames import Frame

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
    """

    frame: int
    pts_s: float | None
    box: tuple[float, float, float, float]
    score: float | None = None
    track: int | None = None
    camera: str | None = None


@dataclass(frozen=True)
class Batch:
    """Sightings that go through the encoder together, with their crops.

    Attributes:
        sightings: B of them.
        crops: (B, H, W, 3) uint8 of the encoder's size.
        times: what was spent on them so far.
    """

    sightings: Sequence[Sighting]
    crops: NDArray[np.uint8]
    times: StageTimes = field(default_factory=StageTimes)


def people_in_frames(
    frames: Iterable[Frame], find: FindPeople, size: tuple[int, int], camera: str | None = None
) -> Iterator[Batch]:
    """Yield one batch for every frame in which there is anybody.

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
        if not len(people):
            continue
        with times.stage("crop"):
            crops = cut(frame.image, people.boxes, *size)
        yield Batch([_sighting(frame, people, row, camera) for row in range(len(people))], crops, times)


def people_in_crops(crops: Iterable[Crop], size: tuple[int, int], camera: str | None = None) -> Iterator[Batch]:
    """Yield the images of a folder in batches; a camera given here outdoes those in the file names."""
    images = iter(crops)
    while part := list(islice(images, MAX_BATCH)):
        times = StageTimes()
        with times.stage("crop"):
            pixels = np.stack([resize(crop.image, *size) for crop in part])
        yield Batch([_whole_image(crop, camera) for crop in part], pixels, times)


def watch(batches: Iterable[Batch], pipeline: Pipeline, source: str) -> Iterator[Event]:
    """Identify the people of every batch; yields an event a person, in order."""
    for batch in batches:
        cameras = [sighting.camera for sighting in batch.sightings]
        answers = pipeline.identify(batch.crops, cameras, batch.times)
        for sighting, answer in zip(batch.sightings, answers, strict=True):
            yield _event(source, sighting, answer, batch.times)


def _event(source: str, sighting: Sighting, answer: Identification, times: StageTimes) -> Event:
    return Event(
        source=source,
        camera=sighting.camera,
        pts_s=sighting.pts_s,
        frame=sighting.frame,
        track=sighting.track,
        box=sighting.box,
        detector_score=sighting.score,
        identity=answer.identity,
        status=answer.status,
        similarity=answer.similarity,
        neighbours=tuple(
            events.Neighbour(entry=near.entry, identity=near.identity, distance=near.distance)
            for near in answer.neighbours
        ),
        stage_ms=times.ms,
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
    return Sighting(
        frame=crop.index, pts_s=None, box=(0.0, 0.0, float(width), float(height)), camera=camera or crop.camera
    )
