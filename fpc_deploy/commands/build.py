"""`fpc-deploy build`: the graphs of a bundle become TensorRT engines beside them."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from runtime.errors import EngineError


class ProviderName(str, Enum):
    """What builds and runs the engines."""

    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"


def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle whose graphs are built.")],
    provider: Annotated[
        ProviderName, typer.Option(help="tensorrt builds on the device it will run on; tensorrt-rtx needs no GPU.")
    ] = ProviderName.tensorrt,
    batch: Annotated[
        str, typer.Option(help="Batches to tune for; smaller ones run too, larger ones in parts.")
    ] = "1,8,32",
    compute_capability: Annotated[
        str, typer.Option(help="GPUs to build for, as in 8.6,8.9 (tensorrt-rtx); default: the GPU of this machine.")
    ] = "",
    candidates: Annotated[int | None, typer.Option(help="Most candidates a query; default: the bundle's.")] = None,
    neighbours: Annotated[int | None, typer.Option(help="Most neighbours a query; default: the bundle's.")] = None,
) -> None:
    """Build TensorRT engines for this device, or for the compute capabilities given."""
    from rich.console import Console

    from runtime.bundle import Bundle
    from runtime.engines.bundle_engines import build_engines, choose_target
    from runtime.engines.profiles import ShapePlan
    from runtime.engines.providers import load_provider

    opened = Bundle.open(bundle)
    loaded = load_provider(provider.value)
    target = choose_target(loaded, [part.strip() for part in compute_capability.split(",") if part.strip()])
    plan = ShapePlan.of(opened.manifest, _batches(batch), candidates, neighbours)
    console = Console()
    console.print(f"{loaded.name} {loaded.version} for {target}, precision {opened.manifest.precision}")
    with _Progress(Console(stderr=True)) as progress:
        built = build_engines(opened, loaded, target, plan, progress)
    for engine in built:
        state = "built" if engine.fresh else "up to date"
        console.print(f"{engine.graph}: {state}, {engine.path.stat().st_size / 2**20:.0f} MiB, {engine.path}")


class _Progress:
    """A line that shows the phase TensorRT is in, and a bar for the outermost phase."""

    def __init__(self, console: object) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=console, transient=True)  # type: ignore[arg-type]
        self._task = self._bars.add_task("parsing", total=None)

    def __enter__(self) -> "_Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, phase: str, parent: str | None, done: int, steps: int) -> None:
        if parent is None:
            self._bars.update(self._task, completed=done, total=steps)
        self._bars.update(self._task, description=f"{phase} {done}/{steps}")


def _batches(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise EngineError(f"--batch {text}: give whole numbers, as in 1,8,32") from None
