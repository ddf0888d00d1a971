"""`fpc-deploy export --precision fp16`: a proven float32 bundle, converted, judged, and only then put in place."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.crops import load_calibration_set
from calibration.derive import derive_bundle
from calibration.gate import Verdict, judge
from calibration.protocol import Labels
from calibration.split import STRANGERS
from export.checkpoint import Geometry
from export.parity import proof_crops
from export.precision import convert_graph
from export.write import ExportOptions, export_bundle
from runtime.bundle import Bundle, Preprocessing

HELD_OUT, GALLERY = 8, 24
"""Made-up crops that the gate compares: queries (each also occluded) and gallery entries."""


def export_half(
    checkpoint: Path,
    out: Path,
    options: ExportOptions,
    geometry: Geometry,
    images: Path | None = None,
    allow_loss: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Bundle, Verdict]:
    """Export a checkpoint in half precision; see `export.write.export_bundle` and `calibration.derive.derive_bundle`.

    Args:
        checkpoint: what to export.
        out: folder to make.
        options: pruning, decoder, cameras.
        geometry: what the checkpoint does not tell.
        images: folder of crops to judge on; None takes made-up textures, which say little about people.
        allow_loss: write the bundle also if it loses too much; it then says so.
        report: called with one line per step.

    Raises:
        ParityError: the bundle loses more than the gate allows.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        whole = export_bundle(checkpoint, Path(scratch) / "fp32", options, geometry, report)
        held_out, gallery, labels = _crops(whole.manifest.preprocessing, images)
        report(f"converting to fp16, judging on {len(held_out)} crops, clear and occluded")
        return derive_bundle(
            whole,
            out,
            "fp16",
            convert_graph,
            lambda reference, candidate: judge(reference, candidate, held_out, gallery, labels),
            allow_loss=allow_loss,
            overwrite=options.overwrite,
        )


def _crops(
    size: Preprocessing, images: Path | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[Labels, Labels] | None]:
    """Return held-out crops, gallery crops, and the labels of both where there are any."""
    if images is None:
        crops = proof_crops(size.height, size.width, HELD_OUT + GALLERY, seed=16)
        return crops[:HELD_OUT], crops[HELD_OUT:], None
    found = load_calibration_set(images, STRANGERS, size.height, size.width, seed=0)
    return found.held_out, found.gallery, found.labels
