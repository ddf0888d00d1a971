"""The command line: a thin layer over the library. Only here is an `FpcError` caught and printed."""

import logging
import multiprocessing
import signal
import sys
from types import FrameType

import typer
from rich.console import Console
from rich.logging import RichHandler

from fpc_deploy.commands import index
from fpc_deploy.commands.bench import bench
from fpc_deploy.commands.build import build
from fpc_deploy.commands.calibrate import calibrate
from fpc_deploy.commands.demo import demo
from fpc_deploy.commands.doctor import doctor
from fpc_deploy.commands.evaluate import evaluate
from fpc_deploy.commands.export import export
from fpc_deploy.commands.render import render
from fpc_deploy.commands.run import run
from fpc_deploy.commands.train import train
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
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%H:%M:%S")
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    else:  # a journal or a file: one line a message, whatever its length
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for package in ("fpc_deploy", "export", "calibration", "runtime"):  # other people's packages only warn
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


for command in (export, build, calibrate, run, bench, doctor, demo, render, train):
    app.command()(command)
app.command("eval")(evaluate)
app.add_typer(index.app, name="index")


def main() -> None:
    """Run the command line; an `FpcError` becomes one line on standard error and exit code 1."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except FpcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:  # what no command foresaw: a full disk under standard output, say
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _stop(number: int, frame: FrameType | None) -> None:
    """End as cleanly as by Ctrl-C, which goes to worker processes too; a service manager's signal may not."""
    for child in multiprocessing.active_children():
        child.terminate()
    signal.default_int_handler(number, frame)


if __name__ == "__main__":
    main()
