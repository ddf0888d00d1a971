"""`fpc-deploy export`: a checkpoint becomes a proven bundle."""

import logging
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpc_deploy.commands.options import (
    MinOwnSimilarityOption,
    MinSimilarityOption,
    PassesOption,
    SearchByOption,
    TemperatureOption,
    parse_size,
    whole_numbers,
)
from runtime.errors import FpcError, MissingExtraError

if TYPE_CHECKING:
    from runtime.bundle import Manifest

log = logging.getLogger(__name__)


class DecoderTokens(str, Enum):
    """What the decoder reads besides the mean [cls]."""

    gallery = "gallery"
    query_and_gallery = "query+gallery"


class Precision(str, Enum):
    """What the graphs compute in."""

    fp32 = "fp32"
    fp16 = "fp16"


def export(
    checkpoint: Annotated[Path, typer.Argument(help="FPC, TransReID or fpc-deploy checkpoint (.pth).")],
    out: Annotated[Path, typer.Option(help="Folder to make; it appears whole or not at all.")],
    keep_rate: Annotated[
        float | None,
        typer.Option(help="Share of patches that survives each pruning block; default: as trained, or 0.8."),
    ] = None,
    prune_at: Annotated[
        str | None, typer.Option(help="Blocks that prune, counted from 0; default: as trained, or 3,6,9.")
    ] = None,
    decoder_tokens: Annotated[
        DecoderTokens | None,
        typer.Option(help="Whether the query's own tokens join its neighbours'; default: as trained, or gallery."),
    ] = None,
    search_by: SearchByOption = None,
    neighbour_temperature: TemperatureOption = None,
    passes: PassesOption = None,
    min_similarity: MinSimilarityOption = None,
    min_own_similarity: MinOwnSimilarityOption = None,
    camera_names: Annotated[
        str, typer.Option(help="Names of the trained cameras in their order, c1,c2,...; all others are unknown.")
    ] = "",
    precision: Annotated[Precision, typer.Option(help="fp16 is for GPUs; for INT8 see calibrate.")] = Precision.fp32,
    images: Annotated[Path | None, typer.Option(help="Crops of people to judge fp16 on.")] = None,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write an fp16 bundle also if it loses too much; it then says so.")
    ] = False,
    backbone: Annotated[str | None, typer.Option(help="timm ViT whose blocks to use; default: by width.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Crop size HxW, where the checkpoint leaves it open.")] = None,
    stride: Annotated[int | None, typer.Option(help="Patch stride, where the checkpoint leaves it open.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads; default: width / 64.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is already there.")] = False,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs, each proved against torch."""
    try:
        from export.checkpoint import Geometry
        from export.write import ExportOptions, export_bundle
        from runtime.bundle import MatchSettings
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "export") from error
    options = ExportOptions(
        keep_rate=keep_rate,
        prune_at=None if prune_at is None else whole_numbers("--prune-at", prune_at),
        decoder_tokens=decoder_tokens.value if decoder_tokens else None,
        camera_names=tuple(name.strip() for name in camera_names.split(",") if name.strip()),
        matching=MatchSettings().with_changes(
            {
                "search_by": search_by.value if search_by else None,
                "neighbour_temperature": neighbour_temperature,
                "passes": passes,
                "min_similarity": min_similarity,
                "min_own_similarity": min_own_similarity,
            }
        ),
        overwrite=overwrite,
    )
    if precision is Precision.fp32 and (images or allow_loss):
        raise FpcError(
            "--images and --allow-loss are for the judgement on --precision fp16: give that, or leave them out"
        )
    geometry = Geometry(backbone, parse_size(image_size) if image_size else None, stride, heads)
    if precision is Precision.fp16:
        from fpc_deploy.half_precision import export_half

        bundle, _ = export_half(checkpoint, out, options, geometry, images, allow_loss, log.info)
    else:
        bundle = export_bundle(checkpoint, out, options, geometry, log.info)
    print_report(bundle.folder, bundle.manifest)


def print_report(folder: Path, manifest: "Manifest") -> None:
    """Print what was exported and how well it agrees with torch."""
    from rich.console import Console
    from rich.table import Table

    table = Table("graph", "output", "max-abs", "allowed", "least cosine", "worst sample")
    for row in manifest.parity:
        table.add_row(
            row.graph,
            row.output,
            f"{row.max_abs:.1e}",
            f"{row.tolerance:.1e}",
            f"{row.min_cosine:.7f}",
            row.worst_sample,
        )
    console = Console()
    console.print(table)
    model, schedule = manifest.model, manifest.keep_schedule
    kept = " -> ".join(map(str, (model.patches, *schedule.kept)))
    console.print(f"{model.backbone} ({model.source_format}), patches {kept} at keep rate {schedule.keep_rate}")
    console.print(f"{manifest.multiply_adds_g['query_encoder_as_published']:.3g} G multiply-adds as the paper counts")
    for note in manifest.notes:
        console.print(f"note: {note}")
    console.print(f"bundle: {folder}")
