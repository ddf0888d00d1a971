"""Encode time at two keep rates, batch by batch in turn.

`python -m benchmarks.keep_rate PRUNING [OTHER] --batch 1,8`: the query encoders of two bundles of one model. With one
bundle, its query encoder against its gallery encoder, which is the same model at keep rate 1.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np

from runtime.bundle import Bundle
from runtime.encoder import Encoder
from runtime.engines.trial import probe_crops

WARM_UP = 3


@dataclass(frozen=True)
class Side:
    """An encoder, its name, and its multiply-adds for a crop in G."""

    name: str
    encoder: Encoder
    multiply_adds_g: float


def sides(folders: list[str], engine: str, threads: int | None) -> list[Side]:
    bundles = [Bundle.open(folder) for folder in folders]
    found = [
        Side(
            f"keep rate {bundle.manifest.keep_schedule.keep_rate:g}",
            Encoder(bundle, sparse=True, engine=engine, threads=threads),
            bundle.manifest.multiply_adds_g["query_encoder"],
        )
        for bundle in bundles
    ]
    if len(found) == 1:
        [bundle] = bundles
        dense = Encoder(bundle, sparse=False, engine=engine, threads=threads)
        found.append(Side("dense encoder", dense, bundle.manifest.multiply_adds_g["gallery_encoder"]))
    return found


def measure(pair: list[Side], crops: np.ndarray, rounds: int) -> list[np.ndarray]:
    """Milliseconds a crop of each side, (rounds,) each; the side that goes first changes every round."""
    taken: list[list[float]] = [[], []]
    for turn in range(WARM_UP + rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            pair[which].encoder.encode(crops)
            if turn >= WARM_UP:
                taken[which].append(1e3 * (time.perf_counter() - start) / len(crops))
    return [np.array(times) for times in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", help="one or two")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    if len(options.bundles) > 2:
        parser.error("give one bundle or two")
    pair = sides(options.bundles, options.engine, options.threads)
    fewer = 1 - pair[0].multiply_adds_g / pair[1].multiply_adds_g
    print(f"{pair[0].name} against {pair[1].name}: {100 * fewer:.1f} % fewer multiply-adds in linear layers")
    crops = np.stack(probe_crops(Bundle.open(options.bundles[0])))
    print("| engine | batch | ms a crop | | less time, median of pairs | of minima |")
    print("| --- | --- | --- | --- | --- | --- |")
    for batch in map(int, options.batch.split(",")):
        first, second = measure(pair, np.resize(crops, (batch, *crops.shape[1:])), options.rounds)
        paired, least = np.median(1 - first / second), 1 - first.min() / second.min()
        medians = f"{np.median(first):.1f} | {np.median(second):.1f}"
        print(f"| {pair[0].encoder.engine_name} | {batch} | {medians} | {100 * paired:.1f} % | {100 * least:.1f} % |")


if __name__ == "__main__":
    main()
