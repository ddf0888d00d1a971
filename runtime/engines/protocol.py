"""What the runtime asks of an inference engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.errors import EngineError

Array = NDArray[np.generic]


@dataclass(frozen=True)
class TensorSpec:
    """What a graph says of one of its inputs or outputs.

    Attributes:
        name: of the tensor.
        shape: one number an axis; None where the axis is dynamic.
        dtype: numpy's name of the element type: `float32`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        axes = ", ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.name} {self.dtype} ({axes})"


class Engine(Protocol):
    """One loaded graph. Safe to call from one thread at a time."""

    @property
    def name(self) -> str:
        """Engine and device, as `doctor` and `bench` print it: `onnxruntime-cpu`."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs that the graph declares, in its order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs that the graph declares, in its order."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once.

        Args:
            inputs: one array per graph input, of the dtype and rank the graph declares.

        Returns:
            One array per graph output, by name.

        Raises:
            EngineError: an input is missing, or has a dtype or shape the graph does not take.
        """


def check_inputs(graph: Path, expected: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Raise EngineError unless `inputs` have the names, dtypes and axes that `graph` declares."""
    if set(inputs) != {spec.name for spec in expected}:
        raise EngineError(f"{graph} takes {', '.join(spec.name for spec in expected)}, not {', '.join(inputs)}")
    for spec in expected:
        value = inputs[spec.name]
        fits = value.ndim == len(spec.shape) and all(
            size in (None, given) for size, given in zip(spec.shape, value.shape, strict=True)
        )
        if value.dtype != spec.dtype or not fits:
            raise EngineError(f"{graph} takes {spec}, not {spec.name} {value.dtype} {value.shape}")
