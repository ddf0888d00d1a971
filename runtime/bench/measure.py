"""From a bundle to reports: one measured process a batch size, and beside it what the machine could do at best."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from runtime.bench.floors import Work, work_of
from runtime.bench.galleries import OpenedGallery, existing_gallery, made_up_gallery
from runtime.bench.pictures import Pictures, pictures_of
from runtime.bench.processes import Measured, run_process
from runtime.bench.rates import Place, Rates, graph_path, measure_rates
from runtime.bench.report import STAGES, Report, StageFigures
from runtime.bench.subject import Task
from runtime.bundle import Bundle
from runtime.engines import open_engine
from runtime.engines.selection import MOVING, REFERENCE, check_name, resolve_engine
from runtime.errors import BundleError, EngineError, FpcError
from runtime.machine import describe_machine, versions

Progress = Callable[[str], None]

GALLERY_SIZE = 1000
TOKENS = "float16"
BATCHES = (1, 8)
SECONDS = 10.0
RATE_SECONDS = 1.0
"""For each rate; less only where the whole measurement is shorter."""
_BUSY = 0.5  # load beside which times and floors mean little, as a share of the cores
_BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        gallery: to search; None makes one.
        gallery_size: entries of the one that is made.
        tokens: how that one stores patch tokens.
        batches: crops at a time, one report each.
        engine: see `runtime.engines.open_graph`.
        threads: of one run of the engine; None leaves it to `auto`, or to the engine.
        images: folder of pictures; None takes rendered crops.
        repeats: batches to measure; None measures for `seconds`.
        seconds: for each batch size.
    """

    gallery: Path | None = None
    gallery_size: int = GALLERY_SIZE
    tokens: str = TOKENS
    batches: tuple[int, ...] = BATCHES
    engine: str = "auto"
    threads: int | None = None
    images: Path | None = None
    repeats: int | None = None
    seconds: float = SECONDS


def measure(
    bundle: Bundle, options: BenchOptions = BenchOptions(), progress: Progress = lambda _: None
) -> list[Report]:
    """Measure a bundle.

    Args:
        bundle: with a decoder.
        options: what, and how long.
        progress: told what is under way.

    Returns:
        One report a batch size, in the order asked for.

    Raises:
        BundleError: the bundle lacks a graph.
        GalleryError: the gallery is empty, of another bundle, or cannot be made.
        SourceError: the folder of pictures holds none.
        EngineError: no such engine, or it cannot run the graphs.
        MissingExtraError: the engine is not installed.
        FpcError: a number that is out of range.
    """
    _check(bundle, options)
    pictures = pictures_of(options.images)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    progress("choosing the engine")
    encoders, others = places(bundle, options.engine, options.threads)
    with ExitStack() as stack:
        if options.gallery is None:
            progress(f"making a gallery of {options.gallery_size} entries")
            gallery = stack.enter_context(made_up_gallery(bundle, options.gallery_size, options.tokens, options.engine))
        else:
            gallery = existing_gallery(options.gallery, bundle, options.engine)
        codes = Place(REFERENCE, "int8", options.threads) if gallery.searched.as_bytes else None
        rates, measured = None, dict[int, Measured]()
        for batch in options.batches:
            progress(f"batch {batch}")
            measured[batch] = run_process(
                _task(bundle, gallery, pictures, batch, options, run_too=batch == options.batches[-1])
            )
            progress("what the machine can do")
            spend = min(RATE_SECONDS, options.seconds)
            rates = measure_rates(encoders, others, codes, spend).best(rates)
    if rates is None:  # for the type checker: one batch size at least was measured
        raise FpcError("nothing was measured")
    _, threads = resolve_engine(bundle, "query_encoder", options.engine, options.threads)
    run_rate = max(taken.run_crops_per_s or 0.0 for taken in measured.values())
    shared = _Conditions(bundle, gallery, pictures, encoders, threads, rates, run_rate, load)
    return [_report(shared, batch, taken) for batch, taken in measured.items()]


def places(bundle: Bundle, engine: str, threads: int | None) -> tuple[Place, Place]:
    """Return where the encoders could run, and where matcher and decoder could.

    With the threads that were asked for, not with those that `auto` settled on: a floor is what the machine could do.

    Raises:
        EngineError: no such engine, or it does not start here.
        MissingExtraError: it is not installed.
    """
    precision = bundle.manifest.precision
    rest = "fp32" if precision == "int8" else precision  # calibration quantises the encoders alone
    encoding, _ = resolve_engine(bundle, "query_encoder", engine, threads)
    deciding, _ = resolve_engine(bundle, "decoder", engine, threads)
    if not encoding.startswith("tensorrt"):  # which takes no graph of ours
        open_engine(graph_path("fp32"), encoding, threads)  # it is better to fail before a gallery is made
    return Place(encoding, precision, threads), Place(deciding, rest, threads)


def figures(
    batches: Sequence[Mapping[str, float]], batch: int, rates: Rates, work: Mapping[str, Work]
) -> dict[str, StageFigures]:
    """Return times a crop by stage, and their floors; the floor of `total` is the sum of all.

    Args:
        batches: milliseconds of each batch by stage.
        batch: crops in each.
        rates: of the machine.
        work: of each stage but `total`.
    """
    floors = {name: one.floor_ms(rates) for name, one in work.items()}
    known = [floor for floor in floors.values() if floor is not None]
    floors["total"] = sum(known) if len(known) == len(floors) else None
    found = {}
    for name in STAGES:
        p50, p95, p99 = np.percentile([one.get(name, 0.0) / batch for one in batches], [50, 95, 99])
        floor = floors[name]
        found[name] = StageFigures(
            p50_ms=float(p50), p95_ms=float(p95), p99_ms=float(p99),
            floor_ms=floor, ratio=float(p50) / floor if floor else None,
        )  # fmt: skip
    return found


def _check(bundle: Bundle, options: BenchOptions) -> None:
    if not bundle.has("decoder"):
        raise BundleError(
            f"bundle {bundle.folder} has no decoder, so its queries are matched but never rebuilt: only a bundle with "
            "all stages can be measured; export an FPC checkpoint"
        )
    if not options.batches:
        raise FpcError("no batch size was asked for: give --batch 1")
    if wrong := [batch for batch in options.batches if batch < 1]:
        raise FpcError(f"a batch of {wrong[0]} crops is none: give --batch 1 or more")
    if len(set(options.batches)) < len(options.batches):
        raise FpcError(f"--batch {','.join(map(str, options.batches))} names a size twice")
    if options.repeats is not None and options.repeats < 1:
        raise FpcError(f"--repeats {options.repeats} measures nothing: give 1 or more")
    if not options.seconds > 0:
        raise FpcError(f"--seconds {options.seconds} measures nothing: give more than 0")
    if options.threads is not None and options.threads < 1:
        raise EngineError(f"--threads {options.threads}: give 1 or more")
    check_name(options.engine)


def _task(
    bundle: Bundle, gallery: OpenedGallery, pictures: Pictures, batch: int, options: BenchOptions, *, run_too: bool
) -> Task:
    return Task(
        bundle=str(bundle.folder),
        gallery=str(gallery.folder),
        pictures=tuple(map(str, pictures.paths)),
        batch=batch,
        engine=options.engine,
        threads=options.threads,
        repeats=options.repeats,
        seconds=options.seconds,
        run_too=run_too,
    )


@dataclass(frozen=True)
class _Conditions:
    """What the reports of all batch sizes share."""

    bundle: Bundle
    gallery: OpenedGallery
    pictures: Pictures
    encoders: Place
    threads: int | None
    rates: Rates
    run_rate: float
    load: float | None


def _report(given: _Conditions, batch: int, taken: Measured) -> Report:
    bundle, searched, engine = given.bundle, given.gallery.searched, given.encoders.engine
    shortened = engine in MOVING and bundle.manifest.precision == "fp32"  # others stay as the graph has them
    bytes_a_weight = _BFLOAT16_BYTES if shortened else None
    work = work_of(bundle, searched, batch, given.pictures.bytes_each, bytes_a_weight)
    seconds = sum(one["total"] for one in taken.batches) / 1e3
    return Report(
        machine=describe_machine(),
        engine=engine,
        precision="bf16" if shortened else bundle.manifest.precision,
        batch=batch,
        gallery_entries=searched.entries,
        stages=figures(taken.batches, batch, given.rates, work),
        crops_per_s=batch * len(taken.batches) / seconds,
        cold_start_s=taken.cold_start_s,
        peak_rss_mb=taken.peak_rss_mb,
        run_crops_per_s=given.run_rate,
        made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
        threads=given.threads,
        model=_facts(bundle),
        matching=bundle.manifest.matching.model_dump(mode="json"),
        tokens=given.gallery.tokens,
        crops=given.pictures.described,
        repeats=len(taken.batches),
        rates=_in_giga(given.rates),
        load=given.load,
        notes=(*_notes(given), *taken.warnings),
    )


def _facts(bundle: Bundle) -> dict[str, object]:
    """What of the model decides speed, and which model it is."""
    manifest = bundle.manifest
    return {
        "hash": manifest.model.model_hash[:12],
        "backbone": manifest.model.backbone,
        "crop": f"{manifest.preprocessing.height}x{manifest.preprocessing.width}",
        "keep_rate": manifest.keep_schedule.keep_rate,
        "graphs": manifest.precision,
        "multiply_adds_g": round(manifest.multiply_adds_g["query_encoder"], 3),
    }


def _in_giga(rates: Rates) -> dict[str, float]:
    """Rates as a report has them; one that could not be measured is left out."""
    found = {
        "encoders_gmacs_per_s": rates.encoders,
        "others_gmacs_per_s": rates.others,
        "codes_gmacs_per_s": rates.codes,
        "numpy_gmacs_per_s": rates.numpy,
        "memory_gb_per_s": rates.bandwidth,
    }
    return {name: rate / 1e9 for name, rate in found.items() if rate is not None}


def _notes(given: _Conditions) -> list[str]:
    notes = []
    if given.load is not None and given.load > _BUSY * describe_machine().cores:
        notes.append(f"the machine was busy (load {given.load:.1f}): times and floors are not those of a quiet one")
    if given.rates.encoders is None:
        notes.append("this engine takes no graph that was not built beforehand: floors of its stages are unknown")
    return notes
