"""ONNX Runtime on a GPU, with inputs and outputs bound to device memory."""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines.decisions import cache_folder
from runtime.engines.ort import OrtEngine, ProviderWithOptions
from runtime.engines.protocol import Array
from runtime.errors import EngineError, MissingExtraError

FIRST = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""{backend: the execution provider that is to run all it can}."""


class OrtDeviceEngine(OrtEngine):
    """A graph in ONNX Runtime's CUDA or TensorRT provider.

    Inputs are copied into device buffers that stay for as long as shapes stay the same; outputs come back in one copy.

    Args:
        graph: path of the ONNX file.
        backend: `cuda` or `tensorrt`; the latter compiles at every start, with kept timings.
        threads: threads of what runs on the CPU.

    Raises:
        EngineError: ONNX Runtime has no such provider, or cannot load the graph with it.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(self, graph: Path, backend: str = "cuda", threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime-gpu", "gpu") from error
        first = FIRST[backend]
        if first not in onnxruntime.get_available_providers():
            raise EngineError(
                f"this ONNX Runtime has no {first}: run  pip install 'fpc-deploy[gpu]'  on a machine with an "
                "NVIDIA GPU, in an environment without the plain onnxruntime package"
            )
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it misses, and events go to standard output
            onnxruntime.preload_dlls()  # CUDA and cuDNN that came as packages
        super().__init__(graph, threads, _providers(backend))
        if self._session.get_providers()[0] != first:  # ONNX Runtime falls back without an error
            raise EngineError(f"ONNX Runtime could not start {first}: check driver, CUDA and cuDNN")
        self._backend = backend
        self._bound = BoundSession(self._session, "cuda")

    @property
    def name(self) -> str:
        """Engine and device."""
        return f"onnxruntime-{self._backend}"

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once; see `Engine.run`."""
        try:
            return self._bound.run(inputs)
        except Exception as error:  # ONNX Runtime raises a class of its own per status code
            shapes = {name: (value.shape, str(value.dtype)) for name, value in inputs.items()}
            self._bound = BoundSession(self._session, "cuda")  # what is bound now may be half of it
            reason = " ".join(str(error).split())
            raise EngineError(f"ONNX Runtime failed on {self._graph} with inputs {shapes}: {reason}") from error


def _providers(backend: str) -> list[str | ProviderWithOptions]:
    """Execution providers, best first: what one cannot run falls to the next.

    Without TF32, which rounds factors to 10 bits: what a graph keeps in float32 (Sinkhorn, the scores that pruning
    chooses by) it keeps there on purpose.
    """
    others: list[str | ProviderWithOptions] = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    if backend == "cuda":
        return others
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # this provider has no option for it
    folder, timings = cache_folder(), dict[str, object]()
    if folder is not None:
        timings = {"trt_timing_cache_enable": True, "trt_timing_cache_path": str(folder / "timings")}
        with contextlib.suppress(OSError):
            (folder / "timings").mkdir(parents=True, exist_ok=True)
    return [(FIRST[backend], timings), *others]


class BoundSession:
    """A session whose inputs lie in device memory, held for as long as shapes stay the same.

    Args:
        session: of ONNX Runtime.
        device: `cuda`, or `cpu` where the session runs there.
    """

    def __init__(self, session: Any, device: str) -> None:
        self._session, self._device = session, device
        self._binding: Any = session.io_binding()
        self._names = [output.name for output in session.get_outputs()]
        self._held: dict[str, tuple[tuple[object, ...], Any]] = {}  # input: (shape and type, value on the device)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Copy the inputs to the device, run, and copy the outputs back."""
        import onnxruntime

        for name, value in inputs.items():
            given = np.ascontiguousarray(value)
            kind = (given.shape, given.dtype)
            known, held = self._held.get(name, ((), None))
            if known == kind:
                held.update_inplace(given)
            else:
                held = onnxruntime.OrtValue.ortvalue_from_numpy(given, self._device, 0)
                self._held[name] = (kind, held)
            # also what is bound already: where its first reader runs on the CPU, binding is what copies it there
            self._binding.bind_ortvalue_input(name, held)
        for name in self._names:
            self._binding.bind_output(name, self._device, 0)  # anew each time: the shape may be another
        self._session.run_with_iobinding(self._binding)
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))
