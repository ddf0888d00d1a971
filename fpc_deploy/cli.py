"""The command line: a thin layer over the library. Only here is an `FpcError` caught and printed."""

import logging
import sys

import typer
from rich.console import Console
from rich.logging import RichHandler

from fpc_deploy.commands import index
from fpc_deploy.commands.build import build
from fpc_deploy.commands.render import render
from runtime.errors import FpcError

app = typer.Typer(
    name="fpc-deploy",
    help="Export FPC person re-identification to ONNX and TensorRT, build galleries, watch cameras.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(verbose: bool = typer.Option(False, "--verbose", "-v", help="Log every step to standard error.")) -> None:
    """Set up logging; every command comes through here."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )


app.command()(build)
app.command()(render)
app.add_typer(index.app, name="index")


def main() -> None:
    """Run the command line; an `FpcError` becomes one line on standard error and exit code 1."""
    try:
        app()
    except FpcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
