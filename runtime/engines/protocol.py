"""What the runtime asks of an inference engine."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


class Engine(Protocol):
    """One loaded graph. Safe to call from one thread at a time."""

    @property
    def name(self) -> str:
        """Engine and device, as `doctor` and `bench` print it: `onnxruntime-cpu`."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once.

        Args:
            inputs: one array per graph input, of the dtype and rank the graph declares.

        Returns:
            One array per graph output, by name.

        Raises:
            EngineError: an input is missing, or has a dtype or shape the graph does not take.
        """
