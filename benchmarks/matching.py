"""Matching and decoding beside what they replace: EMD over the whole gallery, and k-reciprocal re-ranking.

`python -m benchmarks.matching --bundle BUNDLE [--entries 17661] [--tokens svd-384] [--rerank 2210]`

A made-up gallery (`runtime.gallery.synthetic`) in the sizes of the bundle's model. EMD of 8 queries over their best 100
and of `--whole` of them over every entry are measured by turns. Re-ranking looks at all queries of a set at once: its
time for `--rerank` queries (Occluded-Duke has 2,210 for its 17,661 gallery images) is divided by their number. Times
are given on the clock and of the processors: other load on the machine lengthens the second far less.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fpc_deploy.evaluation.reranking import NAMED, rerank
from runtime.bundle import Bundle
from runtime.emd import CompactEmd, Emd, FloatEmd
from runtime.encoder import Features
from runtime.gallery import Gallery
from runtime.gallery.synthetic import SyntheticPeople, synthetic_gallery, synthetic_people
from runtime.matching import Consolidator, Matcher

BATCH = 8
WARM_UP = 2


@dataclass(frozen=True)
class Time:
    """Median milliseconds a query: on the clock, and of all processors."""

    clock: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.clock:.2f} ms a query ({self.cpu:.2f} of CPU)"

    def over(self, other: "Time") -> str:
        """How many times the other."""
        return f"{self.clock / other.clock:.0f} times ({self.cpu / other.cpu:.0f} by CPU time)"


def timed(work: Callable[[], object], rounds: int, queries: int, warm_up: int = WARM_UP) -> Time:
    taken = []
    for turn in range(warm_up + rounds):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        if turn >= warm_up:
            taken.append((time.perf_counter() - start, time.process_time() - cpu))
    clock, of_cpu = 1000 * np.median(np.array(taken), axis=0) / queries
    return Time(float(clock), float(of_cpu))


def part(features: Features, count: int) -> Features:
    return Features(features.cls[:count], features.patches[:count], features.descriptor[:count])


def measure(bundle: Bundle, gallery: Gallery, people: SyntheticPeople, whole: int, rounds: int) -> tuple[Time, Time]:
    """Print what the stages take; return EMD over the best 100 and the decoder."""
    rng = np.random.default_rng(0)
    facts = bundle.manifest
    kept = facts.keep_schedule.kept[-1] if facts.keep_schedule.kept else facts.model.patches
    query = people.queries(rng.choice(len(gallery), BATCH, replace=False), kept)
    found = gallery.search(query.cls, facts.matching.refine)
    emd: Emd = FloatEmd(bundle, "onnxruntime", None) if people.codec.basis is None else CompactEmd(bundle, None)
    consolidator = Consolidator(bundle, gallery=gallery)
    near = Matcher(bundle, facts.matching, gallery=gallery).refine(query, found.entries, found.cosine, gallery)

    def best() -> None:
        emd.distances(query, gallery.stored(found.entries.ravel()))

    everything = gallery.snapshot().rows.ids

    def all_entries() -> None:
        emd.distances(part(query, whole), gallery.stored(np.tile(everything, whole)))

    gallery.stored(everything)  # checksums, which are taken once
    refined = [timed(best, rounds, BATCH)]
    of_all = timed(all_entries, 1, whole, warm_up=0)
    refined.append(timed(best, rounds, BATCH))
    top = Time(float(np.mean([one.clock for one in refined])), float(np.mean([one.cpu for one in refined])))
    decode = timed(lambda: consolidator.consolidate(query, near), rounds, BATCH)
    print(f"EMD over the best {found.entries.shape[1]}: {top}")
    print(f"EMD over all {len(everything)}, {whole} queries: {of_all}: {of_all.over(top)}")
    print(f"decoder, K {near.entries.shape[1]}, batch {BATCH}: {decode}")
    return top, decode


def rerank_time(people: SyntheticPeople, entries: int, queries: int) -> Time:
    descriptor = people.vectors(0, entries)[1]
    asked = people.queries(np.linspace(0, entries - 1, queries).astype(np.int64), 1).descriptor
    return timed(lambda: rerank(asked, descriptor, NAMED["authors"]), 1, queries, warm_up=0)


def rates() -> None:
    """Print what the machine does at most: the floor of every stage."""
    a, b = np.ones((2048, 768), np.float32), np.ones((768, 2048), np.float32)
    product = timed(lambda: a @ b, 5, 1).clock
    block = np.ones(2**26, np.uint8)
    copy = timed(lambda: block.copy(), 5, 1).clock
    print(f"float32: {2048 * 2048 * 768 / product / 1e6:.0f} G multiply-adds/s; copying: {2**26 / copy / 1e6:.1f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--entries", type=int, default=17_661)
    parser.add_argument("--tokens", default="svd-384")
    parser.add_argument("--folder", type=Path, help="keep the gallery here, and take it up again")
    parser.add_argument("--whole", type=int, default=1, help="queries whose EMD is taken over every entry")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rerank", type=int, default=0, help="queries to re-rank together; 0 leaves it out")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, tokens {options.tokens}")
    rates()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "gallery"
        if folder.exists():
            people = synthetic_people(bundle, options.tokens)
        else:
            start = time.perf_counter()
            people = synthetic_gallery(folder, bundle, options.entries, tokens=options.tokens)
            print(f"gallery made in {time.perf_counter() - start:.0f} s")
        with Gallery.open(folder, bundle.binding) as gallery:
            facts = gallery.info()
            stored = facts.token_bytes_per_entry * facts.entries
            print(f"{facts.entries} entries, {facts.token_bytes_per_entry} bytes of tokens each, {stored / 1e9:.2f} GB")
            top, decode = measure(bundle, gallery, people, options.whole, options.rounds)
        if options.rerank:
            both = Time(top.clock + decode.clock, top.cpu + decode.cpu)
            reranked = rerank_time(people, options.entries, options.rerank)
            print(
                f"k-reciprocal re-ranking of {options.rerank} queries together: {reranked}: {reranked.over(both)} M + C"
            )


if __name__ == "__main__":
    main()
