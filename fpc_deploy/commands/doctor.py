"""`fpc-deploy doctor`: what this machine can run."""

import typer


def doctor() -> None:
    """Say what this machine can run, and how to install what is missing."""
    from rich.console import Console
    from rich.table import Table

    from fpc_deploy.doctor import examine

    findings = examine()
    table = Table("part", "found", "needed for", "if missing")
    for finding in findings:
        state = finding.found if finding.found else "[bold]missing[/bold]"
        table.add_row(
            finding.part, state, finding.needed_for, "" if finding.found else finding.remedy.replace("[", r"\[")
        )
    Console().print(table)
    found = {finding.part: finding.found for finding in findings}
    if not found["onnxruntime"] and not (found["tensorrt"] and found["pycuda"]):
        typer.echo("this machine cannot run bundles yet: install an engine, see above")
        raise typer.Exit(1)
    typer.echo("this machine can run bundles" + (" and export them" if found["torch"] and found["onnx"] else ""))
