"""`fpc-deploy doctor`: what this machine can run."""

import typer


def doctor() -> None:
    """Say what this machine can run, and how to install what is missing."""
    from rich.console import Console
    from rich.table import Table

    from fpc_deploy.doctor import examine

    findings = examine()
    table = Table("part", "found", "needed for")
    for finding in findings:
        table.add_row(
            finding.part, finding.found or "missing", finding.needed_for, style=None if finding.found else "dim"
        )
    Console().print(table)
    missing = [finding for finding in findings if not finding.found]
    if missing:
        typer.echo("to add what is missing:")  # as plain lines, which no narrow terminal cuts
    for finding in missing:
        typer.echo(f"  {finding.part}: {finding.remedy}")
    found = {finding.part: finding.found for finding in findings}
    if not found["onnxruntime"] and not (found["tensorrt"] and found["pycuda"]):
        typer.echo("this machine cannot run bundles yet: install an engine, see above")
        raise typer.Exit(1)
    typer.echo("this machine can run bundles" + (" and export them" if found["torch"] and found["onnx"] else ""))
