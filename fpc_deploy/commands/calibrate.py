"""`fpc-deploy calibrate`: a float32 bundle becomes an INT8 bundle, if it stays good enough."""

import logging
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from runtime.errors import MissingExtraError

log = logging.getLogger(__name__)


class MethodName(str, Enum):
    """How ranges come from activations."""

    error = "error"
    minmax = "minmax"
    entropy = "entropy"
    percentile = "percentile"


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Float32 bundle.")],
    images: Annotated[Path, typer.Option(help="Crops of people: a folder, or a CSV list (path,identity,camera).")],
    out: Annotated[Path, typer.Option(help="Folder to make; it appears whole or not at all.")],
    method: Annotated[
        MethodName, typer.Option(help="How ranges come from activations: error fits each to the product that reads it.")
    ] = MethodName.error,
    count: Annotated[int, typer.Option(help="Crops to calibrate with, spread over people and cameras.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of crops.")] = 0,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write the bundle also if it loses too much; it then says so.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is already there.")] = False,
) -> None:
    """Quantise a bundle to INT8 and say what that costs and gains."""
    try:
        from calibration.bundle import CalibrateOptions, calibrate_bundle
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export") from error
    from rich.console import Console

    from runtime.bundle import Bundle
    from runtime.speed import compare_speed, verdict_on_speed

    options = CalibrateOptions(method.value, count, seed, allow_loss, overwrite)
    source = Bundle.open(bundle)
    made, verdict, _ = calibrate_bundle(source, images, out, options, report=log.info)
    console = Console()
    console.print(verdict.summary())
    for failure in verdict.failures:
        console.print(f"accepted by --allow-loss: {failure}")
    console.print(verdict_on_speed(*compare_speed(source, made, "onnxruntime")))
    console.print(f"bundle: {made.folder}; galleries of the fp32 bundle do not open with it, build them anew")
