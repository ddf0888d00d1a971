from pathlib import Path

import onnx
import pytest

from benchmarks.matmul_graphs import matmul_graph
from runtime.bench.rates import Place, Rates, engine_rate, graph_path, numpy_rate, read_bandwidth

BRIEFLY = 0.01
SLOW, FAST = 1e8, 1e14
"""Multiply-adds a second that the slowest board surpasses and no processor reaches."""


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_graphs_are_those_of_their_script(precision: str) -> None:
    shipped = onnx.load(graph_path(precision))
    assert shipped.graph == matmul_graph(precision).graph


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine(engine: str) -> None:
    assert SLOW < (engine_rate(Place(engine, "int8", threads=1), BRIEFLY) or 0) < FAST


def test_an_engine_that_takes_no_graph(tmp_path: Path) -> None:
    assert engine_rate(Place("tensorrt-rtx", "fp32"), BRIEFLY) is None


def test_numpy_and_memory() -> None:
    assert SLOW < numpy_rate(BRIEFLY) < FAST
    assert 1e8 < read_bandwidth(BRIEFLY) < 1e13


def test_the_best_of_two_measurements() -> None:
    first, second = Rates(1.0, None, None, 5.0, 2.0), Rates(3.0, 4.0, None, 1.0, 9.0)
    assert first.best(second) == Rates(3.0, 4.0, None, 5.0, 9.0)
    assert first.best(None) == first
