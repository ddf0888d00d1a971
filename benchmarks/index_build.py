"""How much of the bare encoder's throughput an index build reaches: both by turns, in one process.

`python -m benchmarks.index_build BUNDLE IMAGES [--images 128] [--rounds 3] [--batch 16] [--engine auto]`

The bare encoder takes crops that lie in memory, in the same batches; the build reads, hashes, decodes and resizes the
same images, encodes them and writes the gallery with all its tokens, synced. Opening the session is left out of both.
Processor time is printed too: on a machine that is busy with other things it says more than the clock.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.datasets import read_labelled
from runtime.encoder import Encoder
from runtime.gallery import Gallery
from runtime.images import read_image, resize
from runtime.indexing import BATCH, add_encoded

Seconds = tuple[float, float]
"""By the clock, and of processor time of all threads."""


def now() -> Seconds:
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    return time.perf_counter() - start[0], time.process_time() - start[1]


def bare(encoder: Encoder, crops: NDArray[np.uint8], batch: int) -> Seconds:
    start = now()
    for at in range(0, len(crops), batch):
        encoder.encode(crops[at : at + batch])
    return since(start)


def build(encoder: Encoder, bundle: Bundle, source: Path, batch: int) -> Seconds:
    folder = Path(tempfile.mkdtemp(prefix="index-build-"))
    facts = bundle.manifest.model
    try:
        start = now()
        with Gallery.create(folder / "gallery", bundle.binding, facts.embed_dim, facts.patches) as gallery:
            add_encoded(gallery, bundle, encoder, read_labelled(source), batch)
            gallery.fold()
        return since(start)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--engine", default="auto")
    given = parser.parse_args()
    bundle = Bundle.open(given.bundle)
    size = bundle.manifest.preprocessing
    images = read_labelled(given.source)[: given.images]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "images.csv"
        listed.write_text("".join(f"{image.path.absolute()},{image.identity},{image.camera}\n" for image in images))
        crops = np.stack([resize(read_image(image.path), size.height, size.width) for image in images])
        encoder = Encoder(bundle, sparse=False, engine=given.engine)
        encoder.encode(crops[: given.batch])
        times = [
            (bare(encoder, crops, given.batch), build(encoder, bundle, listed, given.batch))
            for _ in range(given.rounds)
        ]
    print(f"{len(images)} images, batch {given.batch}, {encoder.engine_name}, {given.rounds} rounds by turns")
    for kind, unit in enumerate(("clock", "processor time")):
        pairs = [(alone[kind], whole[kind]) for alone, whole in times]
        ratios = [alone / whole for alone, whole in pairs]
        alone, whole = (1000 * statistics.median(column) / len(images) for column in zip(*pairs, strict=True))
        print(
            f"{unit:16}bare encoder {alone:8.2f} ms a crop, index build {whole:8.2f}, "
            f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    print("at least 0.85 by the clock is the goal")


if __name__ == "__main__":
    main()
