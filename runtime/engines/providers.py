"""TensorRT and TensorRT-RTX behind one name: they share their API, so one code path builds and runs for both."""

import importlib
from dataclasses import dataclass
from typing import Any

from runtime.errors import EngineError, MissingExtraError

PROVIDERS = ("tensorrt", "tensorrt-rtx")
_MODULES = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),  # the second comes without the meta package
}
OLDEST_TENSORRT = 10
"""First major version without implicit batches and with `execute_async_v3` as the only way to run."""


@dataclass(frozen=True)
class Provider:
    """An installed TensorRT.

    Attributes:
        name: one of `PROVIDERS`.
        version: exact.
        module: its Python module.
    """

    name: str
    version: str
    module: Any

    @property
    def builds_without_gpu(self) -> bool:
        """Whether engines are built for compute capabilities, not for the device at hand."""
        return self.name == "tensorrt-rtx"

    @property
    def has_timing_cache(self) -> bool:
        """Whether timings can be kept between builds; they mean nothing to TensorRT-RTX, which times on the device."""
        return self.name == "tensorrt"


def load_provider(name: str) -> Provider:
    """Import a provider.

    Raises:
        EngineError: no provider of this name, or a version older than `OLDEST_TENSORRT`.
        MissingExtraError: it is not installed.
    """
    if name not in PROVIDERS:
        raise EngineError(f"no provider {name!r}: choose one of {', '.join(PROVIDERS)}")
    for candidate in _MODULES[name]:
        try:
            module = importlib.import_module(candidate)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:  # the bindings are there, the libraries are not
            raise EngineError(f"{candidate} is installed but does not load: {error}") from error
        version = str(module.__version__)
        if name == "tensorrt" and int(version.split(".")[0]) < OLDEST_TENSORRT:
            raise EngineError(
                f"TensorRT {version} is too old: {OLDEST_TENSORRT} or newer is needed (JetPack 6.1 or newer)"
            )
        return Provider(name, version, module)
    raise MissingExtraError(_MODULES[name][0], name)
