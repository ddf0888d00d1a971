"""`fpc-deploy run`: watch a source, emit one event a person."""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpc_deploy.commands.options import (
    MinOwnSimilarityOption,
    MinSimilarityOption,
    PassesOption,
    SearchByOption,
    TemperatureOption,
)
from runtime.errors import SourceError

if TYPE_CHECKING:
    from runtime.pipeline import Pipeline
    from runtime.sources import Frame
    from runtime.stream import Batch

log = logging.getLogger(__name__)


def run(
    source: Annotated[str, typer.Argument(help="Video file, stream URL, or folder of crops.")],
    bundle: Annotated[Path, typer.Option(help="Bundle made by `fpc-deploy export`.")],
    gallery: Annotated[Path, typer.Option(help="Gallery made by `fpc-deploy index build`.")],
    detector: Annotated[Path | None, typer.Option(help="Person detector (ONNX, YOLOX or YOLOv8 layout).")] = None,
    boxes: Annotated[Path | None, typer.Option(help="MOTChallenge box file, in place of a detector.")] = None,
    detector_threshold: Annotated[float, typer.Option(help="Least score of a person.")] = 0.5,
    camera: Annotated[str | None, typer.Option(help="Name of the camera.")] = None,
    refine: Annotated[int | None, typer.Option(min=1, help="Candidates refined by EMD.")] = None,
    neighbours: Annotated[int | None, typer.Option(min=1, help="K, neighbours that rebuild a query.")] = None,
    alpha: Annotated[float | None, typer.Option(min=0, max=1, help="Share of EMD in the distance.")] = None,
    no_emd: Annotated[bool, typer.Option("--no-emd", help="Match by cosine alone (alpha 0).")] = False,
    search_by: SearchByOption = None,
    neighbour_temperature: TemperatureOption = None,
    passes: PassesOption = None,
    min_similarity: MinSimilarityOption = None,
    min_own_similarity: MinOwnSimilarityOption = None,
    engine: Annotated[str, typer.Option(help="Inference engine.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one run of the engine.")] = None,
    reconnect: Annotated[
        bool, typer.Option("--reconnect/--no-reconnect", help="Connect again to a stream that breaks off or freezes.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="File of JSON lines to append to; default: standard output.")] = None,
) -> None:
    """Watch SOURCE and emit who is seen, one JSON object a line."""
    from runtime.bundle import Bundle
    from runtime.heaps import share_heaps

    share_heaps()
    opened = Bundle.open(bundle)
    given: dict[str, object] = {"refine": refine, "neighbours": neighbours, "alpha": 0.0 if no_emd else alpha}
    given |= {"min_similarity": min_similarity, "min_own_similarity": min_own_similarity}
    given |= {"passes": passes, "neighbour_temperature": neighbour_temperature}
    given["search_by"] = search_by.value if search_by else None
    settings = opened.manifest.matching.with_changes(given)
    # The source is closed before the threads that read from it: they end once they find it closed.
    with ExitStack() as stack, ExitStack() as sources:
        with ThreadPoolExecutor(1, "hash") as pool:
            # Takes half a second for a ViT-B: meanwhile the rest is imported. What is wrong with it the pipeline says.
            pool.submit(opened.graph_path, "query_encoder")
            from runtime.gallery import Gallery
            from runtime.pipeline import Pipeline
            from runtime.sinks import JsonLines
            from runtime.sources import is_url, shown
            from runtime.speed import warn_if_slower
            from runtime.stream import watch

            entries = stack.enter_context(closing(Gallery.open(gallery, opened.binding)))
        pipeline = Pipeline(opened, entries, settings, engine, threads)
        warn_if_slower(opened, engine, threads)
        batches = _batches(sources, source, pipeline, detector, boxes, detector_threshold, camera, reconnect)
        sink = stack.enter_context(JsonLines(out))
        events = stack.enter_context(closing(watch(batches, pipeline, shown(source), live=is_url(source))))
        try:
            for event in events:
                if not sink.write(event):
                    break
        except KeyboardInterrupt:
            log.info("stopped")
        log.info("%d events", sink.written)


def _batches(
    stack: ExitStack,
    source: str,
    pipeline: "Pipeline",
    detector: Path | None,
    boxes: Path | None,
    threshold: float,
    camera: str | None,
    reconnect: bool,
) -> "Iterator[Batch]":
    """Open the source and say how people are found in it."""
    from runtime.detection.detector import Detector
    from runtime.sources import is_url, open_crops, read_mot
    from runtime.stream import people_in_crops, people_in_frames

    preprocessing = pipeline.bundle.manifest.preprocessing
    size = (preprocessing.height, preprocessing.width)
    if not is_url(source) and Path(source).is_dir():
        if detector or boxes:
            raise SourceError(f"{source} is a folder of crops: it takes neither --detector nor --boxes")
        return people_in_crops(open_crops(Path(source)), size, camera)
    if (detector is None) == (boxes is None):
        raise SourceError(
            f"{source} is a video: say who is in it by --detector DET.onnx or by --boxes mot.txt, one of them"
        )
    if boxes is not None:
        found = read_mot(boxes)
        frames = _frames(stack, source, reconnect)
        return people_in_frames(frames, lambda frame: found.at(frame.index), size, camera)
    assert detector is not None  # noqa: S101 (for the type checker: one of the two is given)
    finder = Detector.open(detector, threshold=threshold)
    frames = _frames(stack, source, reconnect)
    return people_in_frames(frames, lambda frame: finder.detect(frame.image), size, camera)


def _frames(stack: ExitStack, source: str, reconnect: bool) -> "Iterable[Frame]":
    from runtime.sources import LiveFrames, is_url, on_time, open_frames

    if not is_url(source):
        return stack.enter_context(open_frames(source))
    stream = stack.enter_context(LiveFrames(source, reconnect=reconnect))
    return on_time(stream, stream.name) if stream.paced else stream
