"""Folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import FpcError


@contextmanager
def whole_folder(
    out: Path, *, overwrite: bool, markers: Sequence[str], error: type[FpcError] = FpcError
) -> Iterator[Path]:
    """Give a temporary folder beside `out`; it takes the name of `out` once the block ends well.

    What was at `out` before steps aside first, comes back if the renaming fails, and goes last.

    Args:
        out: folder to make.
        overwrite: replace what `out` holds.
        markers: files by which a folder of ours is known; one that holds other things and none of these is never
            replaced, whatever `overwrite` says.
        error: what to raise.

    Raises:
        FpcError: of the class `error`, if `out` is in use, is not ours to replace, or cannot be written.
    """
    check_target(out, overwrite=overwrite, markers=markers, error=error)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as cause:
        raise error(f"cannot write beside {out}: {cause.strerror or cause}") from cause
    try:
        part.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        yield part
        _put_in_place(part, out)
    except OSError as cause:
        raise error(f"cannot write {out}: {cause.strerror or cause}") from cause
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_target(out: Path, *, overwrite: bool, markers: Sequence[str], error: type[FpcError] = FpcError) -> None:
    """Raise `error` unless a folder may be put at `out`; see `whole_folder`."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise error(f"{out} is not a folder: give the name of a folder that does not exist yet")
    if not out.exists() or not any(out.iterdir()):
        return
    if not any((out / marker).is_file() for marker in markers):
        raise error(f"{out} holds other things (no {' or '.join(markers)}): it is not replaced; give another folder")
    if not overwrite:
        raise error(f"{out} exists: give another folder, or --overwrite to replace it")


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_in_place(part: Path, out: Path) -> None:
    old = part.with_suffix(".old")
    if out.exists():
        out.rename(old)
    try:
        part.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)
