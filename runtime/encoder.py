"""The two encoders of a bundle: sparse for queries, dense for the gallery."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import Bundle
from runtime.engines import open_graph
from runtime.errors import EngineError


@dataclass(frozen=True)
class Features:
    """What an encoder says of B crops.

    Attributes:
        cls: (B, D) float32, the [cls] token of the token memory, before any norm.
        patches: (B, P, D) float32, the patch tokens beside it: P survivors of pruning, or all N.
        descriptor: (B, D) float32, what the crop is ranked by when nothing consolidates it.
        kept: (B, P) int64, index of each surviving patch in the row-major patch grid; None from the dense encoder.
    """

    cls: NDArray[np.float32]
    patches: NDArray[np.float32]
    descriptor: NDArray[np.float32]
    kept: NDArray[np.int64] | None = None


class Encoder:
    """One encoder graph of a bundle, loaded in an engine.

    Args:
        bundle: where the graph comes from.
        sparse: the pruning query encoder, or the dense gallery encoder.
        engine: name of the engine, see `runtime.engines.open_graph`.
        threads: threads of one run; None leaves it to the engine.
    """

    def __init__(self, bundle: Bundle, *, sparse: bool, engine: str = "auto", threads: int | None = None) -> None:
        self.sparse = sparse
        self._size = (bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)
        self._cameras = bundle.manifest.cameras
        self._engine = open_graph(bundle, "query_encoder" if sparse else "gallery_encoder", engine, threads)

    @property
    def engine_name(self) -> str:
        """The engine that runs the graph."""
        return self._engine.name

    def encode(self, crops: NDArray[np.uint8], camera: NDArray[np.int64] | None = None) -> Features:
        """Encode crops in one batch.

        Args:
            crops: (B, H, W, 3) uint8 RGB, already of the bundle's size.
            camera: (B,) int64 trained camera indices; None, or the number of trained cameras, means unknown.

        Raises:
            EngineError: crops of another dtype or size, or a camera outside 0..trained.
        """
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (*self._size, 3):
            height, width = self._size
            raise EngineError(
                f"crops are {crops.dtype} {crops.shape}, the encoder takes uint8 (B, {height}, {width}, 3)"
            )
        if camera is None:
            camera = np.full(len(crops), self._cameras.unknown, np.int64)
        if camera.shape != (len(crops),) or (camera < 0).any() or (camera > self._cameras.unknown).any():
            raise EngineError(
                f"camera must be ({len(crops)},) with values 0..{self._cameras.unknown} (the last: unknown)"
            )
        answer = self._engine.run({"crops": crops, "camera": camera.astype(np.int64)})
        return Features(**answer)  # type: ignore[arg-type]
