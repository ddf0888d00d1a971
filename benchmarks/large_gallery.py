"""A large gallery from nothing to its answers: built, saved, opened, warmed up, searched; time and memory of each step.

Run `python -m benchmarks.large_gallery --entries 1000000`. Building and serving are processes of their own, so that the
memory of one does not count for the other. Vectors are those of `benchmarks.identities`.
"""

import argparse
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.gallery import REFINE, recall, show, timed
from benchmarks.identities import BINDING, queries, records, vectors
from runtime.gallery import Gallery, Settings

_AT_ONCE = 5_000
_SAMPLE_SECONDS = 0.02


def memory() -> dict[str, float]:
    """Resident MB of this process: its own, and mapped files in the page cache, which the system takes back at need."""
    text = Path("/proc/self/status").read_text()
    found = {name: int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1024 for name in ("RssAnon", "RssFile")}  # type: ignore[index]
    return {"own": found["RssAnon"], "mapped": found["RssFile"]}


@contextmanager
def step(name: str, spent: Callable[[], float] | None = None) -> Iterator[None]:
    """Print a line: seconds of a step, most memory of its own during it, and what is left after it."""
    most, stop = [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(_SAMPLE_SECONDS):
            most[0] = max(most[0], memory()["own"])

    watcher = threading.Thread(target=sample)
    watcher.start()
    start = time.perf_counter()
    try:
        yield
    finally:
        took = time.perf_counter() - start if spent is None else spent()
        stop.set()
        watcher.join()
        after = memory()
        load = os.getloadavg()[0]
        print(
            f"| {name} | {took:.1f} | {max(most[0], after['own']):.0f} | {after['own']:.0f} | {after['mapped']:.0f} "
            f"| {load:.1f} |",
            flush=True,
        )


def build(folder: Path, entries: int, dimension: int, settings: Settings) -> None:
    seconds = [0.0]
    with step("start"):
        pass
    with Gallery.create(folder, BINDING, dimension, 0, settings=settings) as gallery:
        with step("add and save", lambda: seconds[0]):
            for first in range(0, entries, _AT_ONCE):
                count = min(_AT_ONCE, entries - first)
                cls, facts = vectors(first, count, dimension), records(first, count)
                start = time.perf_counter()
                gallery.add(facts, cls, cls[:, ::-1], fold=False)
                seconds[0] += time.perf_counter() - start
        with step("build and save HNSW of both vectors"):
            gallery.fold()


def serve(folder: Path, entries: int, dimension: int, settings: Settings) -> None:
    asked = queries(entries, 300, dimension)
    with step("start"):
        pass
    with step("open"):
        gallery = Gallery.open(folder, settings=settings)
    with gallery:
        with step("warm up (load both HNSW)"):
            gallery.warm_up()
        with step("300 searches"):
            first = timed(lambda i: gallery.search(asked[i : i + 1], REFINE), 300)
        print("| what | p50 ms | p99 ms | max ms | p50 of CPU ms |\n| --- | --- | --- | --- | --- |")
        show("search 1 query, seen for the first time", first)
        show("search 1 query", timed(lambda i: gallery.search(asked[i : i + 1], REFINE), 300))
        show("search 8 queries", timed(lambda i: gallery.search(asked[8 * i : 8 * i + 8], REFINE), 37))
        show("rank 1 query", timed(lambda i: gallery.rank(asked[i : i + 1, ::-1], REFINE), 300))
        view = gallery.snapshot()
        show(
            "search 1 query, exact",
            timed(lambda i: view.nearest("cls", asked[i : i + 1], REFINE, exact=True), 5),
        )
        print(f"recall of HNSW at {REFINE}: {recall(view, asked[:200]):.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--whole", action="store_true", help="HNSW over whole vectors")
    parser.add_argument("--folder", type=Path, help="keep the gallery here, and take it up again")
    options = parser.parse_args()
    settings = Settings(index_coordinates=2**31) if options.whole else Settings()
    with tempfile.TemporaryDirectory() as work:
        folder = options.folder or Path(work) / "gallery"
        print(f"{options.entries} entries of {options.dimension} numbers; {os.cpu_count()} processors")
        context = multiprocessing.get_context("spawn")
        for what in (build, serve):
            if what is build and folder.exists():
                continue
            print(f"{what.__name__}:\n| step | s | most MB | MB after | MB mapped | load |")
            print("| --- | --- | --- | --- | --- | --- |", flush=True)
            process = context.Process(target=what, args=(folder, options.entries, options.dimension, settings))
            process.start()
            process.join()
        sizes: dict[str, float] = {}
        for path in folder.iterdir():
            kind = path.name.split("-")[0] if path.suffix == ".bin" else path.suffix or path.name
            sizes[kind] = sizes.get(kind, 0) + path.stat().st_size / 2**20
        print("on disk, MB:", {kind: round(size, 1) for kind, size in sizes.items()})


if __name__ == "__main__":
    main()
