"""What the runtime asks of an inference engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
