"""Folders that appear only when they are complete."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import FpcError


@contextmanager
def published(out: Path, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder beside `out`; it takes the name of `out` once the block ends well.

    Raises:
        FpcError: `out` is a file, holds something and may not be overwritten, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise FpcError(f"{out} is a file: give a folder that does not exist yet")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise FpcError(f"{out} is not empty: give another folder, or --overwrite to replace it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as error:
        raise FpcError(f"cannot write {out}: {error.strerror or error}") from error
    try:
        part.chmod(0o755)
        yield part
        _replace(part, out)
    except OSError as error:
        raise FpcError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(part: Path, out: Path) -> None:
    old = part.with_suffix(".old")
    if out.exists():
        out.rename(old)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)
