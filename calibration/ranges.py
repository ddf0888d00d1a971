"""What the activations of a graph look like over calibration crops, and the int8 steps that fit them."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from runtime.engines import open_engine

Method = Literal["error", "minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)

BATCH = 4
"""Crops encoded at once: all activations of a ViT-B for 4 crops are 230 MB."""
ROWS = 1024
"""Tokens of each activation that are kept: 240 MB for a ViT-B."""
PERCENTILE = 99.99
"""Share of activations, by magnitude, that the range covers; the rest saturates."""
BINS = 1024
QUANTISED_BINS = 128
"""Bins of the histograms, and levels of a magnitude in int8, for which entropy is compared; twice the bins take four
times as long."""
STRIDE = 7
"""Histograms count every seventh value: seven has no factor in common with a width, so that every channel is seen."""
ONE_SIDED = 0.25
"""An activation that reaches at most this share as far below 0 as above leaves half of int8 unused: GELU's (-0.17)."""


@dataclass(frozen=True)
class Scale:
    """How int8 stands for an activation: a level q for the value `(q + offset) * step`.

    The graph subtracts `offset * step` ahead of the zero-point 0 that TensorRT asks for. The offset is a whole number,
    so that 0, which most values after a GELU are next to, is met exactly.
    """

    step: float
    offset: int = 0

    @classmethod
    def covering(cls, low: float, high: float) -> "Scale":
        """Return the finest scale that reaches from `low` to `high`."""
        if low <= 0 < high and -low <= ONE_SIDED * high:
            step = (high - low) / 254  # one level is lost to the offset's rounding
            return cls(step, 128 - int(np.ceil(-low / step)))
        return cls(max(-low, high, float(np.finfo(np.float32).tiny)) / 127)

    @property
    def shift(self) -> float:
        """What is subtracted ahead of quantising."""
        return self.offset * self.step

    def levels(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the nearest levels, -128..127, as numbers."""
        levels = np.rint(values / np.float32(self.step)) - np.float32(self.offset)
        return np.asarray(np.clip(levels, -128, 127), np.float32)


@dataclass(frozen=True)
class Activation:
    """What an activation looked like.

    Attributes:
        low: lower end of the range that int8 is to reach.
        high: upper end.
        rows: (n, d) float32, some of the tokens seen.
    """

    low: float
    high: float
    rows: NDArray[np.float32]


def collect_activations(
    model: ModelProto, names: Sequence[str], crops: NDArray[np.uint8], camera: int, method: Method, scratch: Path
) -> dict[str, Activation]:
    """Run an encoder over crops and return what the named activations looked like.

    Args:
        model: the encoder graph.
        names: of its inner values, (B, n, d) float32 each.
        crops: (n, H, W, 3) uint8.
        camera: index passed with every crop.
        method: `percentile` leaves out outliers, `entropy` minimises the divergence between the values and their
            quantised form; `minmax` and `error` take all that was seen, and `error` is narrowed by `least_error` later.
        scratch: folder for a copy of the graph.
    """
    probed = ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    path = scratch / "probed.onnx"
    onnx.save(probed, path)
    engine = open_engine(path, "onnxruntime")
    extremes, rows = _Extremes(), _Rows(ROWS, len(crops))
    watchers: list[_Watcher] = [extremes, rows]
    if method in {"entropy", "percentile"}:
        histograms = _Histograms(method)
        watchers.append(histograms)
    for start in range(0, len(crops), BATCH):
        part = crops[start : start + BATCH]
        answer = engine.run({"crops": part, "camera": np.full(len(part), camera, np.int64)})
        values = {name: answer[name].astype(np.float32) for name in names}
        for watcher in watchers:
            watcher.add(values)
    path.unlink()
    most = histograms.limits() if len(watchers) > 2 else dict.fromkeys(names, float("inf"))
    return {
        name: Activation(
            max(extremes.low[name], -most[name]), min(extremes.high[name], most[name]), np.concatenate(rows.kept[name])
        )
        for name in names
    }


class _Watcher(Protocol):
    def add(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Look at a batch of activations."""


class _Extremes:
    """Least and largest value of each activation."""

    def __init__(self) -> None:
        self.low: dict[str, float] = {}
        self.high: dict[str, float] = {}

    def add(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        for name, value in values.items():
            self.low[name] = min(self.low.get(name, np.inf), float(value.min()))
            self.high[name] = max(self.high.get(name, -np.inf), float(value.max()))


class _Rows:
    """Some tokens of each activation: of every crop as many."""

    def __init__(self, count: int, crops: int) -> None:
        self.kept: dict[str, list[NDArray[np.float32]]] = {}
        self._each = -(-count // crops)
        self._rng = np.random.default_rng(0)

    def add(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        for name, value in values.items():
            flat = value.reshape(-1, value.shape[-1])
            chosen = self._rng.choice(len(flat), min(len(flat), self._each * len(value)), replace=False)
            self.kept.setdefault(name, []).append(flat[chosen])


class _Histograms:
    """Histograms of each activation, by ONNX Runtime's collector."""

    def __init__(self, method: Method) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        self._collector: Any = HistogramCollector(
            method=method,
            symmetric=True,
            num_bins=BINS,
            num_quantized_bins=QUANTISED_BINS,
            percentile=PERCENTILE,
            scenario="same",
        )

    def add(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        with _quiet():
            self._collector.collect({name: value.reshape(-1)[::STRIDE] for name, value in values.items()})

    def limits(self) -> dict[str, float]:
        """Return the largest magnitude that each activation is to reach."""
        with _quiet():
            found: dict[str, Iterable[Any]] = self._collector.compute_collection_result()
        return {name: max(abs(float(low)), abs(float(high))) for name, (low, high, *_) in found.items()}


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    return contextlib.redirect_stdout(io.StringIO())  # the collector prints its progress
