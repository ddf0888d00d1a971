"""Which engine loads a graph."""

from pathlib import Path

from runtime.engines.ort import OrtEngine
from runtime.engines.protocol import Engine
from runtime.errors import EngineError

ENGINES = ("auto", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx")


def open_engine(graph: Path, engine: str = "auto", threads: int | None = None) -> Engine:
    """Load `graph` with the engine of this name.

    Args:
        graph: path of the ONNX file; for `tensorrt` and `tensorrt-rtx` in its bundle, whose engines lie beside it.
        engine: one of `ENGINES`; `auto` is ONNX Runtime on the CPU, which runs everywhere.
        threads: threads of one run; None leaves it to the engine.

    Raises:
        EngineError: no engine of this name, or it cannot load the graph.
        MissingExtraError: the engine is not installed.
    """
    if engine not in ENGINES:
        raise EngineError(f"no engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if engine.startswith("onnxruntime-"):
        from runtime.engines.ort_device import OrtDeviceEngine

        return OrtDeviceEngine(graph, engine.removeprefix("onnxruntime-"), threads)
    if engine.startswith("tensorrt"):
        from runtime.bundle import sha256_of
        from runtime.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(graph, sha256_of(graph), engine)
    return OrtEngine(graph, threads)
