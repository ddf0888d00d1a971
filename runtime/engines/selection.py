"""Which engine loads a graph."""

from pathlib import Path

from runtime.bundle import Bundle, GraphName
from runtime.engines.ort import OrtEngine
from runtime.engines.protocol import Engine
from runtime.errors import EngineError
from runtime.machine import usable_cores

ENGINES = (
    "auto",
    "onnxruntime",
    "openvino",
    "openvino-bf16",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "tensorrt",
    "tensorrt-rtx",
)
ON_CPU = ("onnxruntime", "openvino", "openvino-bf16")
"""Those that run on the CPU, where threads count."""
REFERENCE = "onnxruntime"
"""The engine that bundles are proved in, and that others are compared with. It runs everywhere."""
MOVING = {"openvino-bf16": "openvino"}
"""Engines that calculate in another precision than the graph says, and the engine that does as it says."""
_THREADS_A_CORE, _FEW_THREADS = 4, 16
ENCODERS = ("query_encoder", "gallery_encoder")


def open_engine(graph: Path, engine: str = "auto", threads: int | None = None, *, untrusted: bool = False) -> Engine:
    """Load `graph` with the engine of this name.

    Args:
        graph: path of the ONNX file; for `tensorrt` and `tensorrt-rtx` in its bundle, whose engines lie beside it.
        engine: one of `ENGINES`; `auto` is ONNX Runtime on the CPU, which runs everywhere. For graphs of a bundle
            `open_graph` makes a better choice.
        threads: threads of one run; None leaves it to the engine.
        untrusted: bound the memory of a run, see `OrtEngine`; other engines cannot.

    Raises:
        EngineError: no engine of this name, or it cannot load the graph.
        MissingExtraError: the engine is not installed.
    """
    check_name(engine)
    check_threads(threads)
    if engine.startswith("onnxruntime-"):
        from runtime.engines.ort_device import OrtDeviceEngine

        return OrtDeviceEngine(graph, engine.removeprefix("onnxruntime-"), threads)
    if engine.startswith("openvino"):
        from runtime.engines.ov import OvEngine

        return OvEngine(graph, threads, "bf16" if engine == "openvino-bf16" else "f32")
    if engine.startswith("tensorrt"):
        from runtime.bundle import sha256_of
        from runtime.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(graph, sha256_of(graph), engine)
    return OrtEngine(graph, threads, untrusted=untrusted)


def open_graph(bundle: Bundle, graph: GraphName, engine: str = "auto", threads: int | None = None) -> Engine:
    """Load a graph of a bundle with the engine that `resolve_engine` names.

    Args:
        bundle: where the graph comes from.
        graph: which one.
        engine: one of `ENGINES`.
        threads: threads of one run; None leaves it to `auto`, or to the engine.

    Raises:
        EngineError: no engine of this name, or it cannot load the graph.
        MissingExtraError: the engine is not installed.
        BundleError: the bundle lacks the graph, or it is damaged.
    """
    path = bundle.graph_path(graph)
    if engine in MOVING and graph in ENCODERS:
        from runtime.engines.choice import warn_if_moved

        warn_if_moved(bundle, engine, threads)
    return open_engine(path, *resolve_engine(bundle, graph, engine, threads))


def resolve_engine(bundle: Bundle, graph: GraphName, engine: str, threads: int | None) -> tuple[str, int | None]:
    """Return the engine, never `auto`, and the threads that a graph of a bundle runs with.

    `auto` is decided once for a machine and a bundle, by measuring its query encoder, and holds for all its graphs. A
    precision other than the graphs' own is for the encoders: matcher and decoder, whose exponentials magnify an error,
    run as exported.

    Args:
        bundle: where the graph comes from.
        graph: which one.
        engine: one of `ENGINES`.
        threads: threads of one run; None leaves it to `auto`, or to the engine.

    Raises:
        EngineError: no engine of this name, or the reference cannot run the query encoder.
        MissingExtraError: ONNX Runtime is not installed.
        BundleError: the query encoder is missing or damaged.
    """
    check_name(engine)
    check_threads(threads)
    encodes = graph in ENCODERS
    if engine != "auto":
        return (engine if encodes else MOVING.get(engine, engine)), threads
    from runtime.engines.choice import choose_engine, chosen_already

    if encodes:
        choice = choose_engine(bundle, threads)
        return choice.engine, choice.threads
    choice = chosen_already(bundle) or choose_engine(bundle, threads)  # by whatever threads the encoder runs with
    # the shapes of matcher and decoder change from call to call, and OpenVINO compiles for each
    return REFERENCE if choice.engine.startswith("openvino") else choice.engine, threads or choice.threads


def check_threads(threads: int | None) -> None:
    """Raise EngineError for a number of threads that would only wait for each other, or take the machine down."""
    most = max(_FEW_THREADS, _THREADS_A_CORE * usable_cores())
    if threads is not None and not 1 <= threads <= most:
        raise EngineError(f"{threads} threads on {usable_cores()} cores: give 1 to {most}")


def check_name(engine: str) -> None:
    """Raise EngineError unless there is an engine of this name."""
    if engine not in ENGINES:
        raise EngineError(f"no engine {engine!r}: choose one of {', '.join(ENGINES)}")
