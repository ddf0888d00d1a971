"""ONNX Runtime as an engine, on the CPU."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines.protocol import Array, TensorSpec
from runtime.errors import EngineError, MissingExtraError, first_line

ProviderWithOptions = tuple[str, dict[str, object]]
UNTRUSTED_BYTES = 2 * 2**30
"""Most memory of all untrusted graphs of a process together. A YOLOX-nano takes 40 MB; a line of a graph may ask for
whatever the machine has."""


class OrtEngine:
    """A graph in ONNX Runtime's CPU provider.

    Args:
        graph: path of the ONNX file.
        threads: threads of one run; None takes ONNX Runtime's choice, one a physical core.
        providers: execution providers, best first.
        untrusted: let a run fail rather than take more than `UNTRUSTED_BYTES`.

    Raises:
        EngineError: ONNX Runtime cannot load the graph.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        graph: Path,
        threads: int | None = None,
        providers: Sequence[str | ProviderWithOptions] = ("CPUExecutionProvider",),
        *,
        untrusted: bool = False,
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "cpu") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: its warnings are about its own optimiser
        # a worker waits for the next node in a loop; once the run is over it must leave the core to other engines
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        if untrusted:
            _register_bounded_memory()
            options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            # without its own fallback, which prints to standard output, where events go
            self._session: Any = onnxruntime.InferenceSession(
                graph, options, providers=list(providers), enable_fallback=False
            )
        except Exception as error:  # ONNX Runtime raises a class of its own per status code
            raise EngineError(f"ONNX Runtime cannot load {graph}: {first_line(error)}") from error
        self._graph = graph
        self._inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self._outputs = tuple(_spec(node) for node in self._session.get_outputs())

    @property
    def name(self) -> str:
        """Engine and device."""
        return "onnxruntime-cpu"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs that the graph declares, in its order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs that the graph declares, in its order."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once; see `Engine.run`."""
        contiguous = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        names = [output.name for output in self._outputs]
        try:
            answers = self._session.run(names, contiguous)
        except Exception as error:
            shapes = {name: (value.shape, str(value.dtype)) for name, value in contiguous.items()}
            raise EngineError(
                f"ONNX Runtime failed on {self._graph} with inputs {shapes}: {first_line(error)}"
            ) from error
        return dict(zip(names, answers, strict=True))


@functools.cache
def _register_bounded_memory() -> None:
    """Tell ONNX Runtime, once a process, of the arena that untrusted graphs share."""
    import onnxruntime

    # -1 is ONNX Runtime's default
    others = dict.fromkeys(("arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk"), -1)
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        ),
        onnxruntime.OrtArenaCfg({"max_mem": UNTRUSTED_BYTES} | others),
    )


# ONNX Runtime's names of element types that differ from numpy's.
_DTYPES = {"float": "float32", "double": "float64"}


def _spec(node: Any) -> TensorSpec:
    """Describe a NodeArg: its type reads `tensor(float)`, a dynamic axis is a name or None."""
    element = str(node.type).removeprefix("tensor(").removesuffix(")")
    axes = tuple(axis if isinstance(axis, int) and axis >= 0 else None for axis in node.shape or ())
    return TensorSpec(node.name, axes, _DTYPES.get(element, element))
