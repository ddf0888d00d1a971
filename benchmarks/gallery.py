"""Measures the gallery: opening, adding, searching, and readers beside a writer; prints a table.

Run `python -m benchmarks.gallery --entries 100000`; a larger one is the business of `benchmarks.large_gallery`.
"""

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.identities import BINDING, queries, records, vectors
from runtime.gallery import Gallery, Settings
from runtime.gallery.snapshot import Snapshot

REFINE = 100
CHANGES = 2_000


def build(folder: Path, entries: int, dimension: int) -> dict[str, float]:
    """Make the gallery; return seconds of storing it and of building HNSW."""
    spent = 0.0
    with Gallery.create(folder, BINDING, dimension, 0) as gallery:
        for first in range(0, entries, 5_000):
            count = min(5_000, entries - first)
            cls = vectors(first, count, dimension)
            start = time.perf_counter()
            gallery.add(records(first, count), cls, cls[:, ::-1], fold=False)
            spent += time.perf_counter() - start
        start = time.perf_counter()
        gallery.fold()
        return {"store s": spent, "build HNSW s": time.perf_counter() - start}


def timed(work: Callable[[int], object], times: int) -> NDArray[np.float64]:
    """(times, 2) milliseconds of each run: on the clock, and of the process (other load lengthens that far less)."""
    found = []
    for i in range(times):
        start, cpu = time.perf_counter(), time.process_time()
        work(i)
        found.append((1000 * (time.perf_counter() - start), 1000 * (time.process_time() - cpu)))
    return np.array(found)


def show(name: str, ms: NDArray[np.float64]) -> None:
    """Print a line of the table; `ms` is (n, 2) from `timed`, or (n,) on the clock alone."""
    clock = ms if ms.ndim == 1 else ms[:, 0]
    cpu = "" if ms.ndim == 1 else f"{np.median(ms[:, 1]):.2f}"
    p50, p99 = np.percentile(clock, [50, 99])
    print(f"| {name} | {p50:.2f} | {p99:.2f} | {clock.max():.1f} | {cpu} |", flush=True)


def opening(folder: Path) -> None:
    show("open", timed(lambda _: Gallery.open(folder).close(), 7))
    with Gallery.open(folder) as gallery:
        query = queries(len(gallery), 1, gallery.layout.dimension)
        show("first search after opening (exact)", timed(lambda _: gallery.search(query, REFINE), 1))
    with Gallery.open(folder) as gallery:
        show("warm_up (load both HNSW)", timed(lambda _: gallery.warm_up(), 1))


def adding(folder: Path, entries: int) -> None:
    with Gallery.open(folder, writable=True) as gallery:
        batches = [vectors(entries + i, 1, gallery.layout.dimension) for i in range(200)]
        ids: list[int] = []
        mark = f"{time.time_ns()}-"  # a folder that was measured before holds the others already
        show(
            "add 1 entry",
            timed(lambda i: ids.extend(gallery.add(records(entries + i, 1, mark), batches[i], batches[i]).added), 200),
        )
        show("remove 1 entry", timed(lambda i: gallery.remove(entries=[ids[i]]), 200))


def searching(folder: Path) -> None:
    with Gallery.open(folder) as gallery:
        gallery.warm_up()
        asked = queries(len(gallery), 300, gallery.layout.dimension)
        show(f"search 1 query, {REFINE} nearest, HNSW", timed(lambda i: gallery.search(asked[i : i + 1], REFINE), 300))
        view = gallery.snapshot()
        show(
            f"search 1 query, {REFINE} nearest, exact",
            timed(lambda i: view.nearest("cls", asked[i : i + 1], REFINE, exact=True), 30),
        )
        print(f"recall of HNSW at {REFINE}: {recall(view, asked[:50]):.4f}", flush=True)


def recall(view: Snapshot, asked: NDArray[np.float32]) -> float:
    """Share of the exact nearest that HNSW finds."""
    near = view.nearest("cls", asked, REFINE).entries
    exact = view.nearest("cls", asked, REFINE, exact=True).entries
    return float(np.mean([len(np.intersect1d(a, b)) / REFINE for a, b in zip(near, exact, strict=True)]))


def read(folder: Path, stop: Event, ready: Event, out: Path, removed: Path) -> None:
    """Query at full load until told to stop; note the time of each query, failures, and late answers."""
    gallery = Gallery.open(folder)
    gallery.warm_up()
    asked_for = queries(len(gallery), 200, gallery.layout.dimension)
    took, failures, late, i = [], [], 0, 0
    gone = removed.open()
    removed_at: dict[int, float] = {}
    ready.set()
    while not stop.is_set():
        for line in gone.readlines():
            id_, at = line.split()
            removed_at[int(id_)] = float(at)
        start, asked = time.perf_counter(), time.time()
        try:
            found = gallery.search(asked_for[i % 200 : i % 200 + 1], REFINE)
            gallery.entries(found.entries[0, :10].tolist())
            gallery.rank(asked_for[i % 200 : i % 200 + 1], 10)
        except Exception as error:
            failures.append(repr(error))
        took.append(1000 * (time.perf_counter() - start))
        bound = gallery.settings.refresh_seconds
        late += sum(asked - removed_at.get(id_, np.inf) > bound for id_ in found.entries[0].tolist())
        i += 1
    out.write_text(json.dumps({"ms": took, "failures": failures, "late": late}))


def churn(folder: Path, removed: Path, seconds: float) -> float:
    """Add and remove CHANGES entries near to the queries; return seconds spent."""
    with Gallery.open(folder, writable=True) as gallery, removed.open("a") as note:
        dimension = gallery.layout.dimension
        near = queries(len(gallery), 200, dimension)
        noise = np.random.default_rng(5).standard_normal((CHANGES, dimension), np.float32)
        start, pause = time.perf_counter(), seconds / (CHANGES / 10)
        for at in range(0, CHANGES, 10):
            cls = near[np.arange(at, at + 10) % 200] + 0.1 * noise[at : at + 10]
            ids = gallery.add(records(at, 10, "churn"), cls, cls[:, ::-1]).added
            time.sleep(pause / 2)
            gallery.remove(entries=ids)
            note.writelines(f"{id_} {time.time()}\n" for id_ in ids)
            note.flush()
            time.sleep(pause / 2)
        return time.perf_counter() - start


def concurrency(folder: Path, work: Path, readers: int, seconds: float) -> None:
    """Readers at full load, first alone, then beside a writer."""
    context = multiprocessing.get_context("spawn")
    p99 = {}
    for phase in ("quiet", "busy"):
        removed = work / f"removed-{phase}"
        removed.touch()
        stop = context.Event()
        started = []
        for k in range(readers):
            ready, out = context.Event(), work / f"{phase}-{k}.json"
            process = context.Process(target=read, args=(folder, stop, ready, out, removed))
            process.start()
            ready.wait()
            started.append((process, out))
        if phase == "busy":
            print(f"writer: {CHANGES} added and removed in {churn(folder, removed, seconds):.1f} s")
        else:
            time.sleep(seconds)
        stop.set()
        for process, _ in started:
            process.join()
        results = [json.loads(out.read_text()) for _, out in started]
        ms = np.concatenate([result["ms"] for result in results])
        show(f"{readers} readers, {phase} ({len(ms)} queries: search, entries, rank)", ms)
        print(f"failed queries: {[f for r in results for f in r['failures']]}, late: {sum(r['late'] for r in results)}")
        p99[phase] = float(np.percentile(ms, 99))
    print(f"p99 busy / quiet: {p99['busy'] / p99['quiet']:.2f} (bound 3)")


def erasing(folder: Path) -> None:
    with Gallery.open(folder, writable=True) as gallery:
        show("remove 1 identity", timed(lambda i: gallery.remove(identity=f"{i:05d}"), 5))
        start = time.perf_counter()
        gallery.compact()
        print(f"compact after it, HNSW built anew: {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        report = gallery.verify()
        print(f"verify: {time.perf_counter() - start:.1f} s, clean {report.clean}, recall {report.recall}")


def threshold(entries: int, dimension: int) -> None:
    """Exact search against HNSW at one size, by turns: where `Settings.index_from` comes from.

    Processor time, as other load lengthens that least; set OPENBLAS_NUM_THREADS=1, as threads that wait count too.
    """
    settings = Settings(index_from=1)
    with (
        tempfile.TemporaryDirectory() as work,
        Gallery.create(Path(work) / "g", BINDING, dimension, 0, settings=settings) as gallery,
    ):
        cls = vectors(0, entries, dimension)
        gallery.add(records(0, entries), cls, cls)
        gallery.warm_up()
        view, asked = gallery.snapshot(), queries(entries, 400, dimension)
        cells = []
        for batch in (1, 8):
            took: dict[bool, list[float]] = {True: [], False: []}
            for i in range(50):
                part = asked[batch * i : batch * (i + 1)]
                for exact in (True, False):
                    work_on = functools.partial(view.nearest, "cls", part, REFINE, exact=exact)
                    took[exact].append(float(timed(lambda _, run=work_on: run(), 1)[0, 1]))
            p50 = {exact: float(np.median(ms)) / batch for exact, ms in took.items()}
            cells.append(f"{p50[True]:.2f} | {p50[False]:.2f} | {p50[True] / p50[False]:.2f}")
        print(
            f"| {entries} | {' | '.join(cells)} | {recall(view, asked[:100]):.4f} | {os.getloadavg()[0]:.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, help="keep the gallery here, and take it up again")
    parser.add_argument("--threshold", action="store_true", help="measure exact search against HNSW by size")
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    if options.threshold:
        print("ms of processor time a query, p50, by turns; batch 1, then batch 8\n")
        print("| entries | exact | HNSW | ratio | exact | HNSW | ratio | recall | load |\n" + "| --- " * 9 + "|")
        for entries in (2_500, 5_000, 10_000, 20_000, 40_000):
            threshold(entries, options.dimension)
        return
    work = Path(tempfile.mkdtemp())
    folder = options.folder or work / "gallery"
    try:
        if not folder.exists():
            spent = build(folder, options.entries, options.dimension)
            print(", ".join(f"{name} {value:.1f}" for name, value in spent.items()))
        print(f"{options.entries} entries of {options.dimension} numbers")
        print("| what | p50 ms | p99 ms | max ms | p50 of CPU ms |")
        print("| --- | --- | --- | --- | --- |")
        opening(folder)
        adding(folder, options.entries)
        searching(folder)
        concurrency(folder, work, options.readers, options.seconds)
        erasing(folder)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
