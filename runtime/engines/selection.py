"""Which engine loads a graph."""

from pathlib import Path

from runtime.engines.ort import OrtEngine
from runtime.engines.protocol import Engine
from runtime.errors import EngineError

ENGINES = ("auto", "onnxruntime")


def open_engine(graph: Path, engine: str = "auto", threads: int | None = None) -> Engine:
    """Load `graph` with the engine of this name.

    Raises:
        EngineError: no engine of this name, or it cannot load the graph.
        MissingExtraError: the engine is not installed.
    """
    if engine not in ENGINES:
        raise EngineError(f"no engine {engine!r}: choose one of {', '.join(ENGINES)}")
    return OrtEngine(graph, threads)
