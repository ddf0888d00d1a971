"""Whether lower precision is faster on this machine: it is not everywhere, and who runs it has to be told.

Two bundles are compared by running both. On an edge box there is only the one of lower precision, so it carries a
stand-in for the float32 graph it was made of: the same nodes, with constants in place of the large weights. That is as
much work and a hundredth of the bytes.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from runtime.bundle import Bundle, verify_file
from runtime.encoder import Encoder
from runtime.engines import Engine, open_engine, open_graph, resolve_engine
from runtime.engines.decisions import Facts, recall, remember
from runtime.engines.protocol import Array
from runtime.errors import FpcError
from runtime.machine import describe_machine, versions

log = logging.getLogger(__name__)

STAND_IN = "query_encoder_float32.onnx"
"""File of a bundle of lower precision, see above."""
WARM_UP = 3
REPEATS = 15
QUICK_REPEATS = 7
"""At start-up, where someone waits: a ViT-B takes three seconds."""


@dataclass(frozen=True)
class Speed:
    """Time of the query encoder for one crop, median over repeats.

    Attributes:
        precision: of the bundle.
        engine: that ran it.
        milliseconds: for one crop.
    """

    precision: str
    engine: str
    milliseconds: float


class SpeedHere(BaseModel):
    """Milliseconds of the query encoder for one crop, in a bundle's own precision and in float32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    own_ms: float = Field(gt=0)
    float32_ms: float = Field(gt=0)


def compare_speed(
    first: Bundle, second: Bundle, engine: str = "auto", repeats: int = REPEATS, threads: int | None = None
) -> tuple[Speed, Speed]:
    """Time the query encoders of two bundles by turns, so that whatever else the machine does slows both.

    Args:
        first: one bundle.
        second: another, of the same crop size.
        engine: that runs both.
        repeats: runs of each that count.
        threads: of one run; None leaves it to the engine.
    """
    bundles = (first, second)
    encoders = [Encoder(bundle, sparse=True, engine=engine, threads=threads) for bundle in bundles]
    crop = _crop(first)
    taken = _by_turns([lambda encoder=encoder: encoder.encode(crop) for encoder in encoders], repeats)  # type: ignore[misc]
    speeds = [
        Speed(bundle.manifest.precision, encoder.engine_name, milliseconds)
        for bundle, encoder, milliseconds in zip(bundles, encoders, taken, strict=True)
    ]
    return speeds[0], speeds[1]


def verdict_on_speed(reference: Speed, candidate: Speed) -> str:
    """Return one line that says whether `candidate` is the faster one."""
    ratio = reference.milliseconds / candidate.milliseconds
    figures = f"{candidate.milliseconds:.1f} ms against {reference.milliseconds:.1f} ms a crop on {candidate.engine}"
    if reference.engine != candidate.engine:
        figures += f" and {reference.engine}"
    if ratio > 1:
        return f"{candidate.precision} is {ratio:.1f} times as fast as {reference.precision} here ({figures})"
    return (
        f"{candidate.precision} is NOT faster than {reference.precision} here ({figures}): "
        f"use the {reference.precision} bundle on machines like this one"
    )


def speed_here(bundle: Bundle, engine: str = "auto", threads: int | None = None) -> tuple[Speed, Speed] | None:
    """Return how fast float32 and the bundle's own precision are here, measured now or on an earlier run.

    Args:
        bundle: of lower precision.
        engine: that runs both.
        threads: of one run.

    Returns:
        (float32, own), or None where nothing can be compared: a float32 bundle, one without a stand-in, or TensorRT,
        which compiles for minutes.

    Raises:
        BundleError: the stand-in is missing or damaged.
        EngineError, MissingExtraError: the engine cannot run here.
    """
    record = bundle.manifest.files.get(STAND_IN)
    if bundle.manifest.precision == "fp32" or record is None:
        return None
    name, threads = resolve_engine(bundle, "query_encoder", engine, threads)
    if "tensorrt" in name:
        return None
    facts = _facts(bundle, name, threads)
    found = recall(SpeedHere, facts)
    if found is None:
        path = bundle.folder / STAND_IN
        verify_file(path, record)
        log.info("measuring whether %s is faster than float32 here, this once", bundle.manifest.precision)
        engines = [open_engine(path, name, threads), open_graph(bundle, "query_encoder", name, threads)]
        inputs: dict[str, Array] = {
            "crops": _crop(bundle),
            "camera": np.array([bundle.manifest.cameras.unknown], np.int64),
        }
        float32, own = _by_turns([_runner(one, inputs) for one in engines], QUICK_REPEATS)
        found = SpeedHere(engine=engines[1].name, own_ms=own, float32_ms=float32)
        remember(found, facts)
    return (
        Speed("float32", found.engine, found.float32_ms),
        Speed(bundle.manifest.precision, found.engine, found.own_ms),
    )


def warn_if_slower(bundle: Bundle, engine: str = "auto", threads: int | None = None) -> None:
    """Log whether the bundle's precision is faster than float32 here: a warning, with what to do, where it is not.

    Never an error: who watches a camera is not to be stopped by a measurement.
    """
    try:
        speeds = speed_here(bundle, engine, threads)
    except FpcError as error:
        log.warning("whether %s is faster than float32 here cannot be measured: %s", bundle.manifest.precision, error)
        return
    if speeds is None:
        return
    faster = speeds[1].milliseconds < speeds[0].milliseconds
    log.log(logging.INFO if faster else logging.WARNING, "%s: %s", bundle.folder, verdict_on_speed(*speeds))


def _by_turns(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median milliseconds of each."""
    taken: list[list[float]] = [[] for _ in runs]
    for turn in range(WARM_UP + repeats):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run()
            if turn >= WARM_UP:
                times.append(time.perf_counter() - start)
    return [1e3 * float(np.median(times)) for times in taken]


def _runner(engine: Engine, inputs: dict[str, Array]) -> Callable[[], object]:
    return lambda: engine.run(inputs)


def _crop(bundle: Bundle) -> NDArray[np.uint8]:
    size = bundle.manifest.preprocessing
    return np.random.default_rng(0).integers(0, 256, (1, size.height, size.width, 3), dtype=np.uint8)


def _facts(bundle: Bundle, engine: str, threads: int | None) -> Facts:
    """What the finding depends on."""
    machine = describe_machine()
    return {
        "graph": bundle.manifest.files["query_encoder.onnx"].sha256,
        "engine": engine,
        "threads": threads,
        "cpu": machine.cpu,
        "features": list(machine.features),
        "cores": machine.cores,
        "gpu": list(machine.gpu),
        "power mode": machine.power_mode,
        "packages": versions(),
    }
