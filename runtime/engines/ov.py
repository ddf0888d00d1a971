"""OpenVINO as an engine, on the CPU, in float32 or in bfloat16."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from runtime.engines.protocol import Array, TensorSpec, check_inputs
from runtime.errors import EngineError, MissingExtraError, first_line

Arithmetic = Literal["f32", "bf16"]


class OvEngine:
    """A graph in OpenVINO's CPU device.

    It is compiled for latency: one run at a time on all threads it was given. The batch stays dynamic; what a new shape
    needs is compiled at its first run and kept. Threads are not pinned to cores: two processes that pin would meet on
    the same ones.

    Args:
        graph: path of the ONNX file.
        threads: threads of one run; None takes OpenVINO's choice, one a physical core.
        arithmetic: in which products and what lies between them run; inputs and outputs keep their types.

    Raises:
        EngineError: OpenVINO cannot load the graph, or this processor has no bfloat16.
        MissingExtraError: OpenVINO is not installed.
    """

    def __init__(self, graph: Path, threads: int | None = None, arithmetic: Arithmetic = "f32") -> None:
        openvino = import_openvino()
        core = openvino.Core()
        if arithmetic == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("this processor has no bfloat16: run with --engine openvino or onnxruntime instead")
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": arithmetic,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(graph)
            self._inputs = tuple(_spec(port) for port in model.inputs)
            self._outputs = tuple(_spec(port) for port in model.outputs)
            self._request: Any = core.compile_model(model, "CPU", options).create_infer_request()
        except Exception as error:  # OpenVINO raises RuntimeError, and ONNX parsers what they like
            raise EngineError(f"OpenVINO cannot load {graph}: {first_line(error)}") from error
        self._graph, self._arithmetic = graph, arithmetic

    @property
    def name(self) -> str:
        """The engine, and its arithmetic where that is not float32."""
        return "openvino" if self._arithmetic == "f32" else f"openvino-{self._arithmetic}"

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
        check_inputs(self._graph, self._inputs, inputs)  # OpenVINO would convert another type without a word
        contiguous = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        try:
            answers = self._request.infer(contiguous, share_inputs=True)
        except Exception as error:
            shapes = {name: (value.shape, str(value.dtype)) for name, value in contiguous.items()}
            raise EngineError(f"OpenVINO failed on {self._graph} with inputs {shapes}: {first_line(error)}") from error
        return {spec.name: answers[number] for number, spec in enumerate(self._outputs)}


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry.

    Its import reports to Google Analytics, unasked, from a forked process. A machine beside cameras should tell nobody,
    and a fork beside running threads can hang: OpenBLAS waits for its own before it. `None` in `sys.modules` makes the
    import of the telemetry fail, for which OpenVINO is prepared.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    finally:
        if sys.modules.get(_TELEMETRY) is None:
            sys.modules.pop(_TELEMETRY, None)
    return openvino  # type: ignore[no-any-return]


_TELEMETRY = "openvino_telemetry"
# OpenVINO's names of element types that differ from numpy's.
_DTYPES = {"boolean": "bool", "f16": "float16", "f32": "float32", "f64": "float64"}
_LETTERS = {"i": "int", "u": "uint"}


def _spec(port: Any) -> TensorSpec:
    """Describe an input or output: its type reads `u8`, `i64` or `f32`."""
    element = str(port.element_type.get_type_name())
    dtype = _DTYPES.get(element) or _LETTERS[element[0]] + element[1:]
    shape = port.partial_shape
    axes = () if shape.rank.is_dynamic else tuple(axis.get_length() if axis.is_static else None for axis in shape)
    return TensorSpec(port.any_name, axes, dtype)
