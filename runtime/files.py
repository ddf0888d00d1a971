"""Files that appear whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import FpcError
from runtime.folders import sync_folder


@contextlib.contextmanager
def whole_file(path: Path, error: type[FpcError] = FpcError) -> Iterator[Path]:
    """Give the name of a new file beside `path`; once the block ends well, it is on the disk and bears that name.

    Where `path` is a symbolic link it stays one, and what it points to is replaced.

    Args:
        path: of the file. The new one has the same ending, for those who look at it.
        error: what to raise.

    Raises:
        FpcError: of the class `error`, if it is no regular file or cannot be written.
    """
    check_output(path, error)
    target = path.resolve()
    part = target.with_name(f".{target.stem[:32]}.{secrets.token_hex(4)}.part{target.suffix}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
        sync_folder(target.parent)
    except OSError as cause:
        raise error(f"{path} cannot be written: {cause.strerror or cause}") from cause
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk there is nothing to remove
            part.unlink(missing_ok=True)


def check_output(path: Path, error: type[FpcError] = FpcError) -> None:
    """Find out, before hours of work maybe, whether a file could be written.

    Raises:
        FpcError: of the class `error`: it is no regular file, or there is no folder for it, or none to write to.
    """
    folder = path.resolve().parent
    if path.is_dir():
        raise error(f"{path} is a folder: give the name of a file")
    if path.exists() and not path.is_file():
        raise error(f"{path} cannot be written: it is no regular file")
    if not folder.is_dir():
        raise error(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise error(f"{path} cannot be written: {folder} is read-only for this user")
