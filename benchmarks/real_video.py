"""Who is who on a real video: six people come to a table one after the other; arrivals enrol, departures are queries.

`python -m benchmarks.real_video BUNDLE VIDEO DETECTOR` with the one-by-one-person-detection video of Intel's
sample-videos and a YOLOX or YOLOv8 detector. Whatever comes out is printed.
"""

import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.detection import Detector
from runtime.encoder import Encoder
from runtime.gallery import Gallery, NewEntry
from runtime.images import cut, has_area
from runtime.pipeline import Pipeline
from runtime.sources import open_frames

# From when to when somebody is in view, in seconds; the six are different people.
VISITS_S = ((6.5, 19.0), (23.0, 44.0), (51.0, 69.0), (74.5, 86.0), (93.5, 119.0), (124.0, 135.5))
SHARE = 0.35
"""Of a visit, at its start and at its end, that counts as arriving and as leaving."""
EVERY = 4
"""Frames from one that is looked at to the next."""

Crops = dict[str, list[NDArray[np.uint8]]]


def collect(video: str, detector: Detector, height: int, width: int) -> tuple[Crops, Crops]:
    """Cut arriving and leaving crops of each visitor."""
    arriving: Crops = defaultdict(list)
    leaving: Crops = defaultdict(list)
    with open_frames(video) as frames:
        for frame in frames:
            for number, (start, end) in enumerate(VISITS_S, 1):
                share = (frame.pts_s - start) / (end - start)
                target = arriving if 0 <= share < SHARE else leaving if 1 - SHARE < share <= 1 else None
                if target is None or frame.index % EVERY:
                    continue
                people = detector.detect(frame.image)
                people = people[has_area(people.boxes, *frame.image.shape[:2])]
                if len(people):
                    target[f"visitor {number}"].append(cut(frame.image, people.boxes[:1], height, width)[0])
    return arriving, leaving


def main() -> None:
    folder, video, detector = sys.argv[1:4]
    bundle = Bundle.open(folder)
    size = bundle.manifest.preprocessing
    arriving, leaving = collect(video, Detector.open(detector), size.height, size.width)
    facts = bundle.manifest.model
    encoder = Encoder(bundle, sparse=False)
    with (
        tempfile.TemporaryDirectory() as scratch,
        Gallery.create(Path(scratch) / "g", bundle.binding, facts.embed_dim, facts.patches) as gallery,
    ):
        for name, crops in arriving.items():
            found = encoder.encode(np.stack(crops))
            gallery.add([NewEntry(name)] * len(crops), found.cls, found.descriptor, found.patches)
        pipeline = Pipeline(bundle, gallery)
        owners = {entry.id: entry.identity for entry in gallery.entries(list(range(1, len(gallery) + 1)))}
        right = tracks = 0
        print(f"{'leaving':12}{'crops':>6}{'right':>7}  {'named by the track':20}{'own':>6}{'best other':>12}")
        for name, crops in leaving.items():
            answers = pipeline.identify(np.stack(crops))
            votes = Counter(answer.identity for answer in answers)
            own, other = similarities(encoder.encode(np.stack(crops)).descriptor, gallery, owners, name)
            right += sum(answer.identity == name for answer in answers)
            tracks += votes.most_common(1)[0][0] == name
            named = votes.most_common(1)[0][0]
            print(f"{name:12}{len(crops):6}{votes[name]:7}  {named!s:20}{own:6.2f}{other:12.2f}")
        total = sum(map(len, leaving.values()))
        print(f"{tracks} of {len(leaving)} visitors named rightly by their track, {right} of {total} crops")


def similarities(
    descriptor: NDArray[np.float32], gallery: Gallery, owners: dict[int, str], name: str
) -> tuple[float, float]:
    """Mean over crops of the cosine with the nearest own entry, and with the nearest entry of anybody else."""
    ranked = gallery.rank(descriptor, len(gallery))
    mine = np.array([[owners[int(entry)] == name for entry in row] for row in ranked.entries])
    own = np.where(mine, ranked.cosine, -1).max(axis=1)
    other = np.where(mine, -1, ranked.cosine).max(axis=1)
    return float(own.mean()), float(other.mean())


if __name__ == "__main__":
    main()
