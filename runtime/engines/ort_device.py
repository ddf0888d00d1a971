"""ONNX Runtime on a GPU, with inputs and outputs bound to device memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines.ort import OrtEngine
from runtime.engines.protocol import Array
from runtime.errors import EngineError, MissingExtraError

PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""Execution providers, best first: what one cannot run falls to the next."""


class OrtDeviceEngine(OrtEngine):
    """A graph in ONNX Runtime's CUDA or TensorRT provider.

    Inputs are copied into device buffers that stay for as long as shapes stay the same; outputs come back in one copy.

    Args:
        graph: path of the ONNX file.
        backend: `cuda` or `tensorrt`; the latter compiles in memory at every start.
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
        providers = PROVIDERS[backend]
        if providers[0] not in onnxruntime.get_available_providers():
            raise EngineError(
                f"this ONNX Runtime has no {providers[0]}: run  pip install 'fpc-deploy[gpu]'  on a machine with an "
                "NVIDIA GPU, in an environment without the plain onnxruntime package"
            )
        super().__init__(graph, threads, providers)
        if self._session.get_providers()[0] != providers[0]:  # ONNX Runtime falls back without an error
            raise EngineError(f"ONNX Runtime could not start {providers[0]}: check driver, CUDA and cuDNN")
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
                continue
            held = onnxruntime.OrtValue.ortvalue_from_numpy(given, self._device, 0)
            self._held[name] = (kind, held)
            self._binding.bind_ortvalue_input(name, held)
        for name in self._names:
            self._binding.bind_output(name, self._device, 0)  # anew each time: the shape may be another
        self._session.run_with_iobinding(self._binding)
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))
