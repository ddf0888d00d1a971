"""`fpc-deploy calibrate`: an INT8 bundle from a float32 one and crops of people."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from calibration.crops import CalibrationSet, load_calibration_set
from calibration.derive import derive_bundle
from calibration.gate import Verdict, judge
from calibration.int8 import quantise
from calibration.ranges import METHODS, Method
from runtime.bundle import Bundle, GraphName
from runtime.errors import SourceError

ENCODERS: frozenset[GraphName] = frozenset({"query_encoder", "gallery_encoder"})
"""Graphs that are quantised. The decoder reads its weights for one row, and the matcher has none."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class CalibrateOptions:
    """What may be chosen.

    Attributes:
        method: how ranges come from activations.
        count: crops to calibrate with.
        seed: of the choice of crops.
        allow_loss: write the bundle also if it loses more than the gate allows.
        overwrite: replace a bundle that is already there.
    """

    method: Method = "error"
    count: int = 512
    seed: int = 0
    allow_loss: bool = False
    overwrite: bool = False


def calibrate_bundle(
    source: Bundle,
    images: Path,
    out: Path,
    options: CalibrateOptions = CalibrateOptions(),
    report: Report = lambda _: None,
) -> tuple[Bundle, Verdict, CalibrationSet]:
    """Quantise the encoders of `source` and write the result to `out`, unless it loses too much.

    Args:
        source: a float32 bundle.
        images: folder of crops, or a labelled list.
        out: folder to make.
        options: method, number of crops.
        report: called with one line a step, and with each warning about the data.

    Raises:
        SourceError: too few usable images.
        ParityError: the bundle loses more than the gate allows.
        BundleError: `source` is not float32, or `out` exists or cannot be written.
    """
    if options.method not in METHODS:
        raise SourceError(f"--method {options.method}: choose one of {', '.join(METHODS)}")
    size = source.manifest.preprocessing
    report(f"reading {images}")
    data = load_calibration_set(images, options.count, size.height, size.width, options.seed)
    for warning in data.warnings:
        report(f"warning: {warning}")
    notes = (
        f"int8: ranges by {options.method} from {len(data.crops)} crops, seed {options.seed}",
        *(f"calibration data: {warning}" for warning in data.warnings),
    )

    def convert(graph: GraphName, before: Path, after: Path) -> None:
        if graph not in ENCODERS:
            shutil.copyfile(before, after)
            return
        report(f"calibrating {graph} on {len(data.crops)} crops")
        model = onnx.load(before)
        with tempfile.TemporaryDirectory() as scratch:
            camera = source.manifest.cameras.unknown
            onnx.save(quantise(model, data.crops, camera, options.method, Path(scratch)), after)

    def compare(reference: Bundle, candidate: Bundle) -> Verdict:
        people = "" if data.labels is None else f" of {len(set(data.labels[0].identity))} people"
        report(f"judging on {len(data.held_out)} held-out crops{people}, clear and occluded")
        return judge(reference, candidate, data.held_out, data.gallery, data.labels, options.seed)

    bundle, verdict = derive_bundle(
        source,
        out,
        "int8",
        convert,
        compare,
        notes=notes,
        allow_loss=options.allow_loss,
        overwrite=options.overwrite,
    )
    return bundle, verdict, data
