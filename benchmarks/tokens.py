"""Token stores against float32: bytes an entry, agreement of the neighbours, and mAP.

`python -m benchmarks.tokens --bundle BUNDLE --data SET [--queries 50] [--gallery 400] [--tokens float16,svd-384]`

SET is a test set as `fpc-deploy eval` reads it. The basis of a learned store comes from 256 gallery entries, as in
`index build`; `--learn-on` takes it from the images of another test set, whose people the gallery never saw. With a
model of untrained weights the overlap says something, the mAP nothing.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.protocol import Labels, Relations, relate, score_ranking
from fpc_deploy.evaluation.datasets import read_test_set
from runtime.bundle import Bundle
from runtime.datasets import LabelledImage
from runtime.encoder import Encoder, Features
from runtime.gallery.codecs import TokenCodec, make_codec
from runtime.gallery.conversion import spread
from runtime.gallery.protocol import Candidates, StoredTokens
from runtime.images import read_image, resize
from runtime.matching import Consolidator, Matcher, Neighbours

BATCH = 8
TOP = 10
FIELDS = ("cls", "patches", "descriptor")


class Float32Tokens(TokenCodec):
    """What the others are compared with; no gallery stores it."""

    def record(self, patches: int, dimension: int) -> np.dtype[np.void]:
        """See `TokenCodec.record`."""
        return np.dtype([("tokens", np.float32, (patches, dimension))])


@dataclass(frozen=True)
class Side:
    """Encoded images of one side of the test set."""

    labels: Labels
    features: Features


@dataclass(frozen=True)
class Reader:
    """A gallery in memory, as far as the matcher asks."""

    tokens: StoredTokens

    def stored(self, entries: NDArray[np.int64]) -> StoredTokens:
        """See `GalleryReader.stored`."""
        return self.tokens.take(entries)


@dataclass(frozen=True)
class Result:
    """What one token store does."""

    bytes_per_entry: int
    neighbours: NDArray[np.int64]
    mean_ap: dict[str, float]
    emd_ms: float


def encode(bundle: Bundle, images: Sequence[LabelledImage], *, sparse: bool) -> Side:
    encoder, size = Encoder(bundle, sparse=sparse), bundle.manifest.preprocessing
    parts = []
    for at in range(0, len(images), BATCH):
        some = images[at : at + BATCH]
        crops = np.stack([resize(read_image(one.path), size.height, size.width) for one in some])
        cameras = np.array([bundle.manifest.cameras.index_of(one.camera) for one in some], np.int64)
        parts.append(encoder.encode(crops, cameras))
    joined = Features(*(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))
    return Side(Labels.of([(one.identity, one.camera) for one in images]), joined)


def nearest(query: NDArray[np.float32], gallery: NDArray[np.float32], count: int) -> Candidates:
    cosine = cosines(query, gallery)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    return Candidates(order, np.take_along_axis(cosine, order, axis=1))


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T)


def measure(bundle: Bundle, codec: TokenCodec, query: Side, gallery: Side, relations: Relations) -> Result:
    """Match, rank by the mixed distance (M) and rebuild (C) with a gallery in this codec."""
    theirs, settings = gallery.features, bundle.manifest.matching.model_copy(update={"neighbours": 100})
    if not settings.alpha:
        settings = settings.model_copy(update={"alpha": 0.4})  # a demo bundle may leave the EMD out
    stored_records = codec.encode(theirs.patches)
    records = [stored_records[row, ...] for row in range(len(stored_records))]
    reader = Reader(StoredTokens(theirs.cls, records, np.arange(len(records)), codec))
    matcher, spent = Matcher(bundle, settings), 0.0
    consolidator = Consolidator(bundle) if bundle.has("decoder") else None
    candidates = nearest(query.features.cls, theirs.cls, settings.refine)
    by_distance = cosines(query.features.descriptor, theirs.descriptor) - 3  # behind all candidates
    rebuilt, found = [], []
    for at in range(0, len(query.labels), BATCH):
        part = slice(at, at + BATCH)
        asked = Features(*(getattr(query.features, name)[part] for name in FIELDS))
        start = time.thread_time() if os.environ.get("ONE_THREAD") else time.perf_counter()
        near = matcher.refine(asked, candidates.entries[part], candidates.cosine[part], reader)  # type: ignore[arg-type]
        spent += (time.thread_time() if os.environ.get("ONE_THREAD") else time.perf_counter()) - start
        found.append(near.entries[:, :TOP])
        np.put_along_axis(by_distance[part], near.entries, 1 - near.distance, axis=1)
        if consolidator:
            top = near.entries[:, :TOP]
            kept = Neighbours(top, near.distance[:, :TOP], reader.stored(top.ravel()))
            rebuilt.append(consolidator.consolidate(asked, kept))
    mean_ap = {"M": score_ranking(by_distance, relations).mean_ap}
    if consolidator:
        mean_ap["C"] = score_ranking(cosines(np.concatenate(rebuilt), theirs.descriptor), relations).mean_ap
    return Result(stored_records.itemsize, np.concatenate(found), mean_ap, 1000 * spent / len(query.labels))


def overlap(found: NDArray[np.int64], reference: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(found, reference, strict=True)]))


def load(bundle: Bundle, folder: Path, queries: int, gallery: int, cache: Path | None) -> tuple[Side, Side]:
    if cache and cache.exists():
        with np.load(cache) as held:
            return _side(held, "query"), _side(held, "gallery")
    data = read_test_set(folder)
    chosen = [[part[i] for i in np.unique(np.linspace(0, len(part) - 1, n).astype(int))] for part, n in (
        (data.query, min(queries, len(data.query))), (data.gallery, min(gallery, len(data.gallery))))]  # fmt: skip
    sides = encode(bundle, chosen[0], sparse=True), encode(bundle, chosen[1], sparse=False)
    if cache:
        arrays = {}
        for name, side in zip(("query", "gallery"), sides, strict=True):
            arrays |= {f"{name}_{field}": getattr(side.labels, field) for field in ("identity", "camera")}
            arrays |= {f"{name}_{field}": getattr(side.features, field) for field in FIELDS}
        np.savez(cache, **arrays)
    return sides


def _side(held: Mapping[str, NDArray[Any]], name: str) -> Side:
    labels = Labels(held[f"{name}_identity"], held[f"{name}_camera"])
    return Side(labels, Features(*(held[f"{name}_{field}"] for field in FIELDS)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--learn-on", type=Path, help="another test set, for the bases")
    parser.add_argument("--queries", type=int, default=10**9)
    parser.add_argument("--gallery", type=int, default=10**9)
    parser.add_argument("--tokens", help="comma-separated; default: some of each kind")
    parser.add_argument("--cache", type=Path, help="keep the encoded images in this .npz, and take them up again")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    query, gallery = load(bundle, options.data, options.queries, options.gallery, options.cache)
    relations = relate(query.labels, gallery.labels)
    width = gallery.features.patches.shape[2]
    names = (options.tokens or f"float16,int8,svd-{width // 2},svd-{width // 3},svd-{width // 4}").split(",")
    learn = gallery.features.patches[spread(len(gallery.labels))]
    if options.learn_on:
        others = read_test_set(options.learn_on).gallery
        learn = encode(bundle, [others[i] for i in spread(len(others))], sparse=False).features.patches
    print(f"{len(query.labels)} queries, {len(gallery.labels)} entries of {gallery.features.patches.shape[1:]}, "
          f"K {TOP}, basis of {len(learn)} {'others' if options.learn_on else 'of them'}, "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    reference = measure(bundle, Float32Tokens("float32"), query, gallery, relations)
    print("| tokens | bytes an entry | top-10 overlap | mAP M | mAP C | against float32 | EMD ms a crop |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in ["float32", *names]:
        codec = None if name == "float32" else make_codec(name, width, [learn])
        found = measure(bundle, codec, query, gallery, relations) if codec else reference
        shift = max((abs(found.mean_ap[stage] - reference.mean_ap[stage]) for stage in found.mean_ap), default=0.0)
        print(f"| {name} | {found.bytes_per_entry} | {overlap(found.neighbours, reference.neighbours):.3f} "
              f"| {found.mean_ap['M']:.2f} | {found.mean_ap.get('C', float('nan')):.2f} | {shift:.2f} "
              f"| {found.emd_ms:.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
