"""How much of the bare encoder's throughput an index build reaches: both by turns, in one process.

`python -m benchmarks.index_build BUNDLE IMAGES [--images 128] [--rounds 3] [--batch 16] [--engine auto]`

The bare encoder takes crops that lie in memory, in the same batches; the build reads, hashes, decodes and resizes the
same images, encodes them and writes the gallery with all its tokens, synced. Opening the session is left out of both.
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


def bare(encoder: Encoder, crops: NDArray[np.uint8], batch: int) -> float:
    start = time.perf_counter()
    for at in range(0, len(crops), batch):
        encoder.encode(crops[at : at + batch])
    return time.perf_counter() - start


def build(encoder: Encoder, bundle: Bundle, source: Path, batch: int) -> float:
    folder = Path(tempfile.mkdtemp(prefix="index-build-"))
    facts = bundle.manifest.model
    try:
        start = time.perf_counter()
        with Gallery.create(folder / "gallery", bundle.binding, facts.embed_dim, facts.patches) as gallery:
            add_encoded(gallery, bundle, encoder, read_labelled(source), batch)
            gallery.fold()
        return time.perf_counter() - start
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
    alone, whole = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [a / b for a, b in times]
    print(f"{len(images)} images, batch {given.batch}, {encoder.engine_name}, {given.rounds} rounds by turns")
    print(f"{'bare encoder':20}{len(images) / alone:8.1f} crops/s{1000 * alone / len(images):9.2f} ms a crop")
    print(f"{'index build':20}{len(images) / whole:8.1f} crops/s{1000 * whole / len(images):9.2f} ms a crop")
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); at least 0.85 is the goal")


if __name__ == "__main__":
    main()
