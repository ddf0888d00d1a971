"""`fpc-deploy index`: build a gallery, add and remove people, keep it healthy."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from runtime.gallery.records import AddResult
    from runtime.indexing import IndexResult, Progress

app = typer.Typer(name="index", help="Build, change and check galleries of known people.", no_args_is_help=True)


SourceArgument = Annotated[
    Path, typer.Argument(help="Folder in Market-1501 naming, folder of folders (one a person), or CSV.")
]
GalleryArgument = Annotated[Path, typer.Argument(help="The gallery's folder.")]
BundleOption = Annotated[Path, typer.Option(help="Bundle whose encoder makes the entries.")]
TokensOption = Annotated[
    str,
    typer.Option(help="How patch tokens are stored: float16, int8, svd-R (R bytes a token), or cls for none at all."),
]
EngineOption = Annotated[str, typer.Option(help="Inference engine; auto takes the best there is.")]
BatchOption = Annotated[int, typer.Option(help="Images of one run of the encoder.")]
TtlOption = Annotated[float | None, typer.Option(help="Days until the entries expire; without it they stay.")]
ActorOption = Annotated[str | None, typer.Option("--as", help="Who asks, for the audit log; default: this user.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for the audit log.")]


@app.command()
def build(
    source: SourceArgument,
    bundle: BundleOption,
    out: Annotated[Path, typer.Option(help="Folder of the new gallery.")],
    tokens: TokensOption = "float16",
    engine: EngineOption = "auto",
    batch: BatchOption = 16,
    ttl_days: TtlOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the gallery at OUT.")] = False,
    actor: ActorOption = None,
    reason: ReasonOption = "",
) -> None:
    """Make a gallery of labelled images."""
    from runtime.bundle import Bundle
    from runtime.indexing import build_gallery

    with _bar() as progress:
        result = build_gallery(
            Bundle.open(bundle),
            source,
            out,
            tokens,
            engine,
            batch,
            progress,
            overwrite=overwrite,
            expires_at=_expiry(ttl_days),
            actor=actor,
            reason=reason,
        )
    _say(out, result)


@app.command()
def add(
    source: SourceArgument,
    gallery: Annotated[Path, typer.Option(help="The gallery to add to.")],
    bundle: BundleOption,
    engine: EngineOption = "auto",
    batch: BatchOption = 16,
    ttl_days: TtlOption = None,
    actor: ActorOption = None,
    reason: ReasonOption = "",
) -> None:
    """Add labelled images; those that are in the gallery already are left out."""
    from runtime.bundle import Bundle
    from runtime.gallery import Gallery
    from runtime.indexing import add_images

    opened = Bundle.open(bundle)
    with Gallery.open(gallery, opened.binding, writable=True) as target, _bar() as progress:
        result = add_images(
            target, opened, source, engine, batch, progress,
            expires_at=_expiry(ttl_days), actor=actor, reason=reason,
        )  # fmt: skip
    _say(gallery, result)


@app.command()
def remove(
    gallery: GalleryArgument,
    identity: Annotated[str | None, typer.Option(help="Remove this person.")] = None,
    entry: Annotated[list[int] | None, typer.Option(help="Remove this entry; may be repeated.")] = None,
    camera: Annotated[str | None, typer.Option(help="Remove what this camera saw.")] = None,
    before: Annotated[datetime | None, typer.Option(help="Remove what was added before this date (UTC).")] = None,
    expired: Annotated[bool, typer.Option("--expired", help="Remove what has outlived its time.")] = False,
    actor: ActorOption = None,
    reason: ReasonOption = "",
) -> None:
    """Remove the entries that fit every condition given; `index compact` takes their bytes off the disk."""
    from runtime.gallery import Gallery

    with Gallery.open(gallery, writable=True) as target:
        removed = target.remove(
            identity=identity,
            entries=entry or None,
            camera=camera,
            before=before,
            expired=expired,
            actor=actor,
            reason=reason,
        )
        left = len(target)
    if not removed:
        typer.echo(f"{gallery}: nothing fits, nothing was removed")
        return
    typer.echo(f"{gallery}: removed {_count(len(removed), 'entry', 'entries')}, {left} left")
    typer.echo(f"Their bytes are still on the disk: run  fpc-deploy index compact {gallery}")


@app.command()
def info(
    gallery: GalleryArgument,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what a gallery holds."""
    from runtime.gallery import Gallery

    with Gallery.open(gallery) as opened:
        facts = asdict(opened.info())
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) or "none" if isinstance(value, dict) else value
        typer.echo(f"{name.replace('_', ' '):<22} {shown}")


@app.command()
def verify(
    gallery: GalleryArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what can be.")] = False,
    actor: ActorOption = None,
) -> None:
    """Check every checksum and reference, and the recall of HNSW; exit code 1 where something stays wrong."""
    from runtime.gallery import Gallery

    with Gallery.open(gallery, writable=repair, salvage=True) as opened:
        found = opened.verify(repair=repair, actor=actor)
    for problem in found.problems:
        typer.echo(str(problem))
    for id_, identity, source in found.lost:
        typer.echo(f"entry {id_} of {identity} was damaged and is removed: add {source or 'its image'} again")
    for space, recall in found.recall.items():
        typer.echo(f"HNSW over {space}: recall {recall:.3f} of the exact nearest 10")
    state = "clean" if not found.problems else "repaired" if found.clean else "damaged"
    typer.echo(f"{gallery}: {_count(found.entries, 'entry', 'entries')} checked, {state}")
    if not found.clean:
        raise typer.Exit(1)


@app.command()
def compact(gallery: GalleryArgument, actor: ActorOption = None, reason: ReasonOption = "") -> None:
    """Give space back, and take every byte of removed entries off the disk."""
    from runtime.gallery import Gallery

    with Gallery.open(gallery, writable=True) as opened:
        done = opened.compact(actor=actor, reason=reason)
    typer.echo(
        f"{gallery}: {done.segments} segments rewritten, {done.bytes_before / 1e6:.1f} MB before, "
        f"{done.bytes_after / 1e6:.1f} MB after"
    )


@app.command()
def convert(
    gallery: GalleryArgument,
    out: Annotated[Path, typer.Option(help="Folder of the new gallery.")],
    tokens: TokensOption,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the gallery at OUT.")] = False,
    actor: ActorOption = None,
    reason: ReasonOption = "",
) -> None:
    """Write a gallery anew with its patch tokens stored in another way; the old one stays."""
    from runtime.gallery import Gallery
    from runtime.gallery.conversion import convert_gallery

    with Gallery.open(gallery) as source:
        before = source.info().bytes
        count = convert_gallery(source, out, tokens, overwrite=overwrite, actor=actor, reason=reason)
    with Gallery.open(out) as made:
        after = made.info().bytes
    typer.echo(
        f"{out}: {_count(count, 'entry', 'entries')}, {after / 1e6:.1f} MB where {gallery} has {before / 1e6:.1f}"
    )


@app.command("export")
def export_(gallery: GalleryArgument, out: Annotated[Path, typer.Argument(help="The .npz file to write.")]) -> None:
    """Write all entries to a .npz file that numpy alone can read."""
    from runtime.gallery import Gallery

    with Gallery.open(gallery) as opened:
        count = opened.export_to(out)
    typer.echo(f"{out}: {_count(count, 'entry', 'entries')}")


@app.command("import")
def import_(
    gallery: GalleryArgument,
    file: Annotated[Path, typer.Argument(help="A .npz file that `index export` wrote.")],
    actor: ActorOption = None,
    reason: ReasonOption = "",
) -> None:
    """Add the entries of an exported gallery."""
    from runtime.gallery import Gallery

    with Gallery.open(gallery, writable=True) as opened:
        _say_added(gallery, opened.import_from(file, actor=actor, reason=reason))


@app.command()
def merge(
    gallery: GalleryArgument,
    other: Annotated[Path, typer.Argument(help="The gallery whose entries are added.")],
    actor: ActorOption = None,
    reason: ReasonOption = "",
) -> None:
    """Add the entries of another gallery of the same bundle."""
    from runtime.gallery import Gallery

    with Gallery.open(gallery, writable=True) as opened, Gallery.open(other) as source:
        _say_added(gallery, opened.merge(source, actor=actor, reason=reason))


@contextmanager
def _bar() -> Iterator["Progress"]:
    """A progress bar on standard error, with the rate and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("Images", total=None, rate="")

    def show(done: int, total: int) -> None:
        bar.start()  # not before there is something to show: an error comes alone
        speed = bar.tasks[0].speed
        bar.update(task, completed=done, total=total, rate=f"{speed:.1f} images/s" if speed else "")

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


def _expiry(ttl_days: float | None) -> float | None:
    import time

    from runtime.errors import GalleryError

    if ttl_days is None:
        return None
    if not ttl_days > 0:
        raise GalleryError(f"--ttl-days {ttl_days:g} is over already: give a number above 0")
    return time.time() + ttl_days * 86_400


def _say(gallery: Path, result: "IndexResult") -> None:
    parts = [f"added {_count(len(result.added), 'entry', 'entries')}"]
    if result.duplicates:
        parts.append(f"{_count(result.duplicates, 'image was', 'images were')} in it already")
    if result.conflicts:
        parts.append(f"{result.conflicts} of them under another identity (left as it is)")
    if result.unreadable:
        parts.append(f"{_count(len(result.unreadable), 'image', 'images')} could not be read")
    typer.echo(f"{gallery}: {', '.join(parts)}")


def _say_added(gallery: Path, result: "AddResult") -> None:
    typer.echo(
        f"{gallery}: added {_count(len(result.added), 'entry', 'entries')}, {len(result.duplicates)} were in it already"
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
