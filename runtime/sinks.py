"""Where events go: a file of JSON lines, or standard output.

Each line leaves in one write to a file opened for appending, so Ctrl-C leaves whole lines only, and two processes may
share a file. A disk that fills up in the middle of a line gets that line taken back. What nobody can rule out is half a
line at the very end after a power cut or SIGKILL (Linux may stop a dying process's write at a page boundary): the next
run leaves it as it is and goes on with a new line.
"""

import contextlib
import errno
import fcntl
import logging
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

from runtime.errors import FpcError
from runtime.events import Event

log = logging.getLogger(__name__)

STANDARD_OUTPUT = "standard output"

# A thousand times what the write of one line takes.
SETTLE_S = 0.1
_EVENT_START = b'{"schema":"fpc-deploy/event/'


class Sink(Protocol):
    """What the run loop asks of a sink."""

    def write(self, event: Event) -> bool:
        """Write one event; False says that nobody reads any more and the loop should end."""

    def close(self) -> None:
        """Let go of the file or connection."""


class JsonLines:
    """Writes events as JSON lines.

    Args:
        path: file to append to, made if missing; None writes to standard output.

    Raises:
        FpcError: the file cannot be opened for writing, or standard output is closed.
    """

    def __init__(self, path: Path | None) -> None:
        if path is None and sys.stdout is None:
            raise FpcError("standard output is closed: give a file to write to (--out FILE)")
        self.name = STANDARD_OUTPUT if path is None else str(path)
        self.written = 0
        self._reader_gone = False
        self._file = None if path is None else _open_for_appending(path)

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, event: Event) -> bool:
        """Write one event as one line.

        Returns:
            False once the reader of a pipe has gone (`fpc-deploy run ... | head`); stop then.

        Raises:
            FpcError: the line cannot be written (a full disk, say); the file ends with the line before it.
        """
        if self._reader_gone:
            return False
        line = (event.to_json() + "\n").encode()
        try:
            if self._file is None:
                _write_to_standard_output(line)
            else:
                _append(self._file, line)
        except BrokenPipeError:
            self._reader_gone = True
            return False
        except (OSError, ValueError) as error:  # ValueError: standard output was closed
            raise FpcError(f"{self.name} cannot be written: {getattr(error, 'strerror', None) or error}") from error
        self.written += 1
        return True

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._reader_gone = True
        elif self.name == STANDARD_OUTPUT and self._reader_gone:
            _drop_standard_output()


def _open_for_appending(path: Path) -> int:
    if not _holds_events(path):
        raise FpcError(f"{path} holds something else than events: nothing is appended to it; give another file")
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except (OSError, ValueError) as error:
        raise FpcError(f"{path} cannot be opened for writing: {getattr(error, 'strerror', None) or error}") from error
    try:
        if _ends_in_half_a_line(path):
            log.warning("%s ends with half a line: it is left as it is, events follow on a new line", path)
            _append(file, b"\n")
    except OSError as error:
        os.close(file)
        raise FpcError(f"{path} cannot be continued: {error.strerror or error}") from error
    return file


def _holds_events(path: Path) -> bool:
    """Whether events may be appended: to a new or empty file, to one that starts with an event, to a pipe."""
    if not path.is_file():
        return True
    try:
        with path.open("rb") as file:
            start = file.read(len(_EVENT_START))
    except OSError:
        return True  # a file that may only be written
    return _EVENT_START.startswith(start)


def _ends_in_half_a_line(path: Path) -> bool:
    """Whether a power cut left half a line behind; what follows must not grow onto it."""
    before = _size_of_torn_file(path)
    if before is None:
        return False
    time.sleep(SETTLE_S)  # it may be another process's line that is just being written
    return _size_of_torn_file(path) == before


def _size_of_torn_file(path: Path) -> int | None:
    """Size in bytes of a file that ends in half a line; None for any other."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return None
        file.seek(size - 1)
        return None if file.read(1) == b"\n" else size


def _append(file: int, line: bytes) -> None:
    """Write all of `line`, or nothing of it where the file is a regular one."""
    with _alone(file):
        status = os.fstat(file)
        written = 0
        try:
            while written < len(line):  # a second turn happens on pipes and nearly full disks only
                written += os.write(file, line[written:])
        except OSError as error:
            if written and error.errno != errno.EPIPE and stat.S_ISREG(status.st_mode):
                os.ftruncate(file, status.st_size)
            raise


@contextlib.contextmanager
def _alone(file: int) -> Iterator[None]:
    """Keep other processes from writing to the file, whose lines would go with ours where it is cut off."""
    with contextlib.suppress(OSError):  # a pipe, or a network disk without locks
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _write_to_standard_output(line: bytes) -> None:
    sys.stdout.flush()  # what was printed as text comes first
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _drop_standard_output() -> None:
    """Point standard output at nothing, or Python complains of the broken pipe once more when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file descriptor (a test, a notebook)
        pass
    finally:
        os.close(nowhere)
