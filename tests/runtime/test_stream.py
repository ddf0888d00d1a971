"""The run loop: parts that run side by side, and events that do not show it."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.detection.detections import NO_TRACK, Detections
from runtime.encoder import Encoder, Features
from runtime.errors import EngineError, SourceError
from runtime.gallery import Gallery, NewEntry
from runtime.images import cut
from runtime.pipeline import MAX_BATCH, Pipeline, StageTimes
from runtime.sources.frames import Frame
from runtime.stream import Batch, people_in_frames, watch

SIZE = (64, 32)
RATE = 25


class Counting(Pipeline):
    """A pipeline that remembers how many crops it was given at a time."""

    def encode(
        self, crops: NDArray[np.uint8], camera: object = None, times: StageTimes | None = None
    ) -> Iterator[Features]:
        self.given = [*getattr(self, "given", []), len(crops)]
        return super().encode(crops, camera, times)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def gallery(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    crops = np.random.default_rng(0).integers(0, 256, (12, *SIZE, 3), dtype=np.uint8)
    found = Encoder(tiny_bundle, sparse=False).encode(crops)
    with Gallery.create(tmp_path_factory.mktemp("stream") / "g", tiny_bundle.binding, 64, 10) as gallery:
        gallery.add([NewEntry(f"p{n}") for n in range(12)], found.cls, found.descriptor, found.patches)
        yield gallery


def frames(count: int) -> Iterator[Frame]:
    rng = np.random.default_rng(1)
    for index in range(count):
        yield Frame(rng.integers(0, 256, (96, 160, 3), dtype=np.uint8), index / RATE, index)


def people(of_frame: int) -> Detections:
    """None in every fourth frame, else one to three; many in frame 30."""
    count = 40 if of_frame == 30 else of_frame % 4
    left = np.linspace(0, 100, count)
    boxes = np.stack([left, left * 0 + 5, left + 30, left * 0 + 85], axis=1) if count else np.empty((0, 4))
    return Detections(boxes.astype(np.float32), np.full(count, 0.9, np.float32), np.full(count, NO_TRACK, np.int64))


def batches(count: int = 60) -> Iterator[Batch]:
    return people_in_frames(frames(count), lambda frame: people(frame.index), SIZE, "door")


@pytest.mark.parametrize("live", [False, True], ids=["recording", "live"])
def test_events_are_those_of_each_frame_by_itself_in_order(tiny_bundle: Bundle, gallery: Gallery, live: bool) -> None:
    pipeline = Counting(tiny_bundle, gallery)
    found = list(watch(batches(), pipeline, "clip", live=live))
    expected = []
    for frame in frames(60):
        crops = cut(frame.image, people(frame.index).boxes, *SIZE)
        expected += [(frame.index, frame.pts_s, answer) for answer in pipeline.identify(crops, "door")]
    assert [(event.frame, event.identity) for event in found] == [
        (index, answer.identity) for index, _, answer in expected
    ]
    for event, (_, pts_s, answer) in zip(found, expected, strict=True):
        assert event.pts_s == pytest.approx(pts_s)
        assert event.similarity == pytest.approx(answer.similarity, abs=1e-3)
    assert set(found[0].stage_ms) == {"detect", "crop", "encode", "search", "emd", "decode", "rank"}


def test_people_of_a_recording_share_runs_of_the_encoder_the_same_way_each_time(
    tiny_bundle: Bundle, gallery: Gallery
) -> None:
    given = []
    for pause in (0.0, 0.002):
        pipeline = Counting(tiny_bundle, gallery)
        slow = threading.Event()

        def paced(pause: float = pause, slow: threading.Event = slow) -> Iterator[Batch]:
            for batch in batches():
                slow.wait(pause)
                yield batch

        list(watch(paced(), pipeline, "clip"))
        given.append(pipeline.given)
    assert given[0] == given[1]
    assert given[0][0] == 1  # the first frame with anybody in it goes alone
    assert 40 in given[0]  # a crowd does too: it is split by the pipeline
    assert max(count for count in given[0] if count != 40) <= MAX_BATCH
    assert np.mean([count for count in given[0][1:] if count != 40]) > MAX_BATCH / 2


def test_a_second_of_video_is_the_longest_that_is_waited_for(tiny_bundle: Bundle, gallery: Gallery) -> None:
    pipeline = Counting(tiny_bundle, gallery)

    def now_and_then(frame: Frame) -> Detections:
        return people(1 if frame.index % 10 == 0 else 0)  # one person every 0.4 s

    list(watch(people_in_frames(frames(100), now_and_then, SIZE), pipeline, "clip"))
    assert pipeline.given == [1, 3, 3, 3]


@pytest.mark.parametrize("live", [False, True], ids=["recording", "live"])
def test_no_event_waits_for_a_frame_that_does_not_come(tiny_bundle: Bundle, gallery: Gallery, live: bool) -> None:
    """Of a live stream none does, of a recording the first one."""
    seen: list[int] = []

    def camera() -> Iterator[Batch]:
        due = 0
        for batch in batches(8):
            yield batch
            due += len(batch.sightings)
            deadline = time.monotonic() + 30
            while len(seen) < due and (live or batch.pts_s == 1 / RATE):
                assert time.monotonic() < deadline
                time.sleep(0.01)

    for event in watch(camera(), Pipeline(tiny_bundle, gallery), "door", live=live):
        seen.append(event.frame)  # noqa: PERF401 (one by one: the camera looks)
    assert len(seen) == sum(len(people(index)) for index in range(8))


def broken_frames(error: Exception) -> Iterator[Frame]:
    yield from frames(8)
    raise error


def test_an_error_of_the_source_comes_after_the_events_before_it(tiny_bundle: Bundle, gallery: Gallery) -> None:
    error = SourceError("stream door broke off")
    find = people_in_frames(broken_frames(error), lambda frame: people(frame.index), SIZE)
    seen: list[int] = []
    with pytest.raises(SourceError) as caught:
        seen.extend(event.frame for event in watch(find, Pipeline(tiny_bundle, gallery), "door"))
    assert caught.value is error
    assert len(seen) == sum(len(people(index)) for index in range(8))


def test_an_error_of_the_encoder_is_raised_where_events_are_taken(tiny_bundle: Bundle, gallery: Gallery) -> None:
    small = people_in_frames(frames(8), lambda frame: people(frame.index), (32, 32))
    with pytest.raises(EngineError, match=r"takes uint8 \(B, 64, 32, 3\)"):
        list(watch(small, Pipeline(tiny_bundle, gallery), "door"))


def test_a_run_that_is_left_leaves_no_thread(tiny_bundle: Bundle, gallery: Gallery) -> None:
    def endless() -> Iterable[Frame]:
        while True:
            yield from frames(8)

    def started() -> set[str]:
        """The pipeline's own workers start when there is work for them, and live as long as it does."""
        return {thread.name for thread in set(threading.enumerate()) - before if not thread.name.startswith("emd")}

    before = set(threading.enumerate())
    find = people_in_frames(endless(), lambda frame: people(frame.index), SIZE)
    with closing(watch(find, Pipeline(tiny_bundle, gallery), "door")) as events:
        assert next(events).frame == 1
        assert started() == {"find people", "encode"}
    assert not started()


def test_a_folder_of_nobody_has_no_events(tiny_bundle: Bundle, gallery: Gallery, tmp_path: Path) -> None:
    nobody = people_in_frames(frames(30), lambda frame: people(0), SIZE)
    assert list(watch(nobody, Pipeline(tiny_bundle, gallery), "door")) == []
