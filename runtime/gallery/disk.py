"""The one place where a gallery writes files outside SQLite, so that durability and its failures can be seen whole.

A test substitutes a `Disk` whose primitives (`write`, `sync`, `rename`) fail; nothing else needs to be replaced.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

PARTIAL_SUFFIX = ".partial"


def open_plain(path: Path) -> int:
    """Open a plain file for reading, neither through a link nor a pipe that nobody writes to; return its descriptor.

    Raises:
        OSError: there is none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return fd


class Disk:
    """Writes that are on the disk when they return."""

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        """Write some of `data` at `offset`; return how many bytes."""
        return os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Wait until what was written to `fd` is on the disk."""
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Put `source` in the place of `target` at once."""
        source.replace(target)

    def store(self, path: Path, offset: int, pieces: Iterable[memoryview]) -> None:
        """Write `pieces` one after another from `offset` on, and sync the file (not its folder)."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            for piece in pieces:
                offset = self._write_all(fd, piece, offset)
            self.sync(fd)
        finally:
            os.close(fd)

    def publish(self, path: Path, content: bytes) -> None:
        """Write a file beside `path`, sync it, rename it to `path`, and sync the folder."""
        beside = path.with_name(path.name + PARTIAL_SUFFIX)
        try:
            beside.unlink(missing_ok=True)
            self.store(beside, 0, [memoryview(content)])
            self.rename(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        self.sync_folder(path.parent)

    def note(self, path: Path, content: bytes) -> None:
        """Overwrite a few bytes in place without waiting for the disk."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            self._write_all(fd, memoryview(content), 0)
        finally:
            os.close(fd)

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names in `folder` are on the disk."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sync(fd)
        finally:
            os.close(fd)

    def shorten(self, path: Path, size: int) -> None:
        """Cut a file to `size` bytes and sync it."""
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            self.sync(fd)
        finally:
            os.close(fd)

    def discard(self, paths: Iterable[Path]) -> None:
        """Delete files that may be gone already, and sync their folders."""
        folders = set()
        for path in paths:
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in folders:
            self.sync_folder(folder)

    def _write_all(self, fd: int, data: memoryview, offset: int) -> int:
        data = data.cast("B")
        while len(data):
            written = self.write(fd, data, offset)
            data, offset = data[written:], offset + written
        return offset
