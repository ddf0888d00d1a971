"""`fpc-deploy demo`: the main job with no file from outside."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="Of people and cameras; the model was trained on those of 2026.")] = 7,
    people: Annotated[int, typer.Option(min=2, max=40, help="People who walk past the cameras.")] = 8,
) -> None:
    """Export, index and run on rendered cameras; writes a report with pictures to OUT/report.html."""
    from fpc_deploy.demo.run import run_demo

    result = run_demo(out, seed, people)
    typer.echo(
        f"{result.right} of {result.tracks} tracks named rightly, "
        f"{result.unnamed} of {result.strangers} strangers named nobody, "
        f"{result.events} events in {result.seconds:.0f} s"
    )
    typer.echo(f"report: {result.report}")
