"""The person detector: an ONNX graph of the YOLOX or YOLOv8 family, brought by the user.

The graph comes from outside. Whatever it answers, no more than `MAX_PEOPLE` boxes leave here, all inside the frame, all
with area, all with a score in 0..1.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.detection.detections import NO_TRACK, Detections
from runtime.detection.layouts import YOLOV8, YOLOX, Grid, Layout, recognise
from runtime.detection.letterbox import fit
from runtime.detection.suppression import suppress
from runtime.engines import Engine, TensorSpec, open_engine
from runtime.errors import DetectorError
from runtime.images import clip, has_area

DEFAULT_THRESHOLD = 0.5
DEFAULT_NMS = 0.45  # both families' own default

# Side of the input where the graph leaves it open: what both families train at.
DYNAMIC_SIDE = 640
MAX_INPUT_PIXELS = 2**24

# Suppression compares every candidate with every other; a frame has fewer people than this (Ultralytics keeps 300).
MAX_CANDIDATES = 1000
MAX_PEOPLE = 300


class Detector:
    """Finds people in frames.

    Attributes:
        layout: which family the graph belongs to.
        input_size: height and width of its input.
    """

    def __init__(
        self, engine: Engine, name: str, *, threshold: float = DEFAULT_THRESHOLD, nms: float = DEFAULT_NMS
    ) -> None:
        """Take a loaded graph; see `open`."""
        for what, value in (("threshold", threshold), ("nms", nms)):
            if not 0 <= value <= 1:
                raise DetectorError(f"the detector's {what} is {value}: it must lie in 0..1")
        self._engine = engine
        self._name = name
        self._threshold = threshold
        self._nms = nms
        self._dtype, self.input_size = self._check_input()
        self._output_shape = self._find_output_shape()
        self.layout, self._grid = self._recognise()

    @classmethod
    def open(
        cls,
        path: str | Path,
        engine: str = "auto",
        *,
        threshold: float = DEFAULT_THRESHOLD,
        nms: float = DEFAULT_NMS,
        threads: int | None = None,
    ) -> "Detector":
        """Load a detector.

        Args:
            path: ONNX file.
            engine: name of the engine, see `runtime.engines.open_engine`.
            threshold: least score of a person, 0..1.
            nms: greatest intersection over union of two people, 0..1.
            threads: threads of one run; None leaves it to the engine.

        Raises:
            DetectorError: the file is missing, or its inputs or outputs fit no known layout.
            EngineError: the engine cannot load the file.
        """
        if not Path(path).is_file():
            raise DetectorError(f"detector {path} does not exist or is not a file")
        return cls(open_engine(Path(path), engine, threads, untrusted=True), str(path), threshold=threshold, nms=nms)

    @property
    def engine_name(self) -> str:
        """The engine that runs the graph."""
        return self._engine.name

    def detect(self, image: NDArray[np.uint8]) -> Detections:
        """Find the people in one frame, best first.

        Args:
            image: (H, W, 3) uint8 RGB.

        Raises:
            DetectorError: the image is of another dtype or shape, or the graph answers in another shape than before.
            EngineError: the graph fails.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise DetectorError(f"the detector takes (H, W, 3) uint8 frames, not {image.dtype} {image.shape}")
        frame = (image.shape[0], image.shape[1])
        place = self.layout.place(frame, self.input_size)
        answer = self._run(self.layout.tensor(fit(image, place, self.input_size)))
        if answer.shape != self._output_shape:
            raise DetectorError(f"detector {self._name} answers {answer.shape}, declared was {self._output_shape}")
        rows = self.layout.rows(answer)
        with np.errstate(over="ignore", invalid="ignore"):  # infinite and NaN numbers are dropped below
            chosen, scores = self._candidates(self.layout.scores(rows))
            grid = Grid(self._grid.cells[chosen], self._grid.strides[chosen])
            boxes = place.to_frame(self.layout.boxes(rows[chosen], grid))
        sound = np.isfinite(boxes).all(axis=1) & has_area(boxes, *frame)
        boxes, scores = clip(boxes[sound], *frame), scores[sound]
        kept = suppress(boxes, scores, self._nms)[:MAX_PEOPLE]
        return Detections(boxes[kept], scores[kept], np.full(len(kept), NO_TRACK, np.int64))

    def _candidates(self, scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return indices and scores of the best rows over the threshold; rounding may leave a score just over 1."""
        over = np.flatnonzero(np.isfinite(scores) & (scores >= self._threshold))
        best = over[np.argsort(-scores[over], kind="stable")[:MAX_CANDIDATES]]
        return best, np.clip(scores[best], 0, 1)

    def _run(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        answers = self._engine.run({self._engine.inputs[0].name: tensor.astype(self._dtype, copy=False)})
        return np.asarray(answers[self._engine.outputs[0].name], np.float32)

    def _check_input(self) -> tuple[np.dtype[np.generic], tuple[int, int]]:
        inputs, outputs = self._engine.inputs, self._engine.outputs
        if len(inputs) != 1 or len(outputs) != 1:
            raise self._unknown(inputs, outputs)
        spec = inputs[0]
        if len(spec.shape) != 4 or spec.shape[0] not in {1, None} or spec.shape[1] not in {3, None}:
            raise self._unknown(inputs, outputs)
        height, width = (DYNAMIC_SIDE if side is None else side for side in spec.shape[2:])
        if spec.dtype not in {"float32", "float16"} or not 0 < height * width <= MAX_INPUT_PIXELS:
            raise self._unknown(inputs, outputs)
        return np.dtype(spec.dtype), (height, width)

    def _find_output_shape(self) -> tuple[int, ...]:
        """Return the shape of the answer; where the graph leaves axes open, one run tells them."""
        declared = self._engine.outputs[0].shape
        if declared and all(axis is not None for axis in declared):
            return tuple(axis for axis in declared if axis is not None)
        return self._run(np.zeros((1, 3, *self.input_size), np.float32)).shape

    def _recognise(self) -> tuple[Layout, Grid]:
        found = recognise(self._output_shape, *self.input_size)
        if found is None:
            raise self._unknown(self._engine.inputs, self._engine.outputs)
        return found

    def _unknown(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> DetectorError:
        return DetectorError(
            f"detector {self._name} fits no known layout: it takes {_listed(inputs)} and gives {_listed(outputs)}; "
            f"known are one input (1, 3, H, W) of floats and one output, {YOLOX.name} {YOLOX.output} or "
            f"{YOLOV8.name} {YOLOV8.output}, n the grid cells of strides 8, 16, 32 (and 64)"
        )


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(str(spec) for spec in specs) or "nothing"
