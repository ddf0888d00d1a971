"""The GPU of this machine, by pycuda."""

from dataclasses import dataclass
from typing import Any

from runtime.errors import EngineError, MissingExtraError


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: as the driver calls it: `Orin`.
        compute_capability: `8.7`.
        handle: pycuda's device.
    """

    name: str
    compute_capability: str
    handle: Any


def current_device(index: int = 0) -> Device:
    """Return a GPU of this machine.

    Raises:
        MissingExtraError: pycuda is not installed.
        EngineError: there is no GPU or no driver for it.
    """
    try:
        import pycuda.driver as cuda
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycuda", "pycuda") from error
    except ImportError as error:  # pycuda is there, the driver's library is not
        raise EngineError(
            f"no NVIDIA driver can be used here: {error}; run with --engine onnxruntime instead"
        ) from error
    try:
        cuda.init()
        handle = cuda.Device(index)
        major, minor = handle.compute_capability()
        return Device(str(handle.name()), f"{major}.{minor}", handle)
    except Exception as error:  # pycuda has an error class per cause, all of them made at run time
        raise EngineError(f"no NVIDIA GPU can be used here: {error}; run with --engine onnxruntime instead") from error
