"""What the machine can do at best: multiply-adds a second in an engine and in numpy, bytes a second from memory."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.engines import Engine, open_engine
from runtime.errors import EngineError, MissingExtraError
from runtime.machine import describe_machine, usable_cores

WIDTH, LAYERS = 1024, 8
"""Of the chain of products in the graphs beside this file, which `benchmarks/matmul_graphs.py` writes."""
_ROWS = (128, 512)  # a batch of one crop and of several
_NUMPY_SIZE = 1024
_LEAST_RUNS = 3
_BUFFER_BYTES = 2**28  # more than any cache of the machines this is for


@dataclass(frozen=True)
class Rates:
    """Best rates seen so far.

    Attributes:
        encoders: multiply-adds a second where the encoders run; None where that cannot be measured.
        others: the same where matcher and decoder run.
        codes: the same for the bytes of a compact gallery, where they are matched as bytes; else None.
        numpy: multiply-adds a second of numpy's float32 products.
        bandwidth: bytes a second, read from memory by all cores together.
    """

    encoders: float | None
    others: float | None
    codes: float | None
    numpy: float
    bandwidth: float

    def best(self, other: "Rates | None") -> "Rates":
        """Return the better of each two rates: whatever else the machine does only ever slows a measurement."""
        if other is None:
            return self
        return Rates(
            max(filter(None, (self.encoders, other.encoders)), default=None),
            max(filter(None, (self.others, other.others)), default=None),
            max(filter(None, (self.codes, other.codes)), default=None),
            max(self.numpy, other.numpy),
            max(self.bandwidth, other.bandwidth),
        )


@dataclass(frozen=True)
class Place:
    """Where graphs run.

    Attributes:
        engine: its name, as `runtime.engines.open_engine` takes it.
        precision: of the graphs: `fp32`, `fp16` or `int8`.
        threads: of one run.
    """

    engine: str
    precision: str
    threads: int | None = None


def graph_path(precision: str) -> Path:
    """Return the path of the graph of products in this precision: `fp32`, `fp16` or `int8`."""
    return Path(__file__).parent / f"matmul_{precision}.onnx"


def measure_rates(encoders: Place, others: Place, codes: Place | None, seconds: float) -> Rates:
    """Measure all rates, spending `seconds` on each; `codes` is None where nothing is matched as bytes."""
    found = {place: engine_rate(place, seconds) for place in {encoders, others, codes} if place is not None}
    in_codes = None if codes is None else found[codes]
    return Rates(found[encoders], found[others], in_codes, numpy_rate(seconds), read_bandwidth(seconds))


def engine_rate(place: Place, seconds: float) -> float | None:
    """Return the multiply-adds a second that an engine reaches on large products; None if it cannot run them.

    TensorRT cannot: it takes engines that were built beforehand.
    """
    try:
        opened = open_engine(graph_path(place.precision), place.engine, place.threads)
        return max(_engine_rate(opened, rows, seconds / len(_ROWS)) for rows in _ROWS)
    except (EngineError, MissingExtraError):
        return None


def _engine_rate(engine: Engine, rows: int, seconds: float) -> float:
    inputs = {"x": np.ones((rows, WIDTH), np.float32)}
    return rows * WIDTH * WIDTH * LAYERS / _least_seconds(lambda: engine.run(inputs), seconds)


def numpy_rate(seconds: float) -> float:
    """Return the multiply-adds a second of a large product in numpy, float32."""
    square = np.ones((_NUMPY_SIZE, _NUMPY_SIZE), np.float32)
    out = np.empty_like(square)
    return float(_NUMPY_SIZE**3 / _least_seconds(lambda: np.matmul(square, square, out=out), seconds))


def read_bandwidth(seconds: float) -> float:
    """Return the bytes a second that all cores together read from memory."""
    size = min(_BUFFER_BYTES, int(describe_machine().memory_gb * 1e9) // 8)
    parts = np.array_split(np.ones(size // 4, np.float32), usable_cores())
    with ThreadPoolExecutor(len(parts)) as pool:  # numpy reduces without Python's lock
        read = sum(part.nbytes for part in parts)
        return read / _least_seconds(lambda: list(pool.map(np.max, parts)), seconds)


def _least_seconds(work: Callable[[], object], seconds: float) -> float:
    """Return the shortest time of `work`, run for so many seconds and a few times at least."""
    work()
    least, end, runs = float("inf"), time.perf_counter() + seconds, 0
    while runs < _LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - start)
        runs += 1
    return least
