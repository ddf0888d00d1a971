"""The SQLite database of a gallery: the truth about which entries there are and where their records lie.

Every row carries a seal, a CRC-32 over its content, and `head` carries the number of live entries and the sum of
their seals: a flipped bit in a row, and a row that vanished or came back, are both seen. Beside the database lies a
note of the last change (`head`, 32 bytes), written after each commit: SQLite drops damaged WAL frames, and with them
committed changes, without a word; the note is what tells.
"""

import contextlib
import logging
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import GalleryError
from runtime.gallery.disk import Disk, open_plain

log = logging.getLogger(__name__)

DATABASE_NAME = "gallery.db"
_BETWEEN_RENAMES_S = 0.05
NOTE_NAME = "head"
PLAIN_FORMAT = 1
FORMAT = 2
"""2: patch tokens in another codec than float16, which a reader of format 1 would take for damaged."""
BUSY_SECONDS = 5.0

SCHEMA = {
    "facts": "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL, seal INTEGER NOT NULL)",
    "head": "CREATE TABLE head (id INTEGER PRIMARY KEY, change INTEGER NOT NULL, entries INTEGER NOT NULL,"
    " checksum INTEGER NOT NULL, next_entry INTEGER NOT NULL, next_segment INTEGER NOT NULL, seal INTEGER NOT NULL)",
    "identities": "CREATE TABLE identities (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    "cameras": "CREATE TABLE cameras (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    "segments": "CREATE TABLE segments (number INTEGER PRIMARY KEY, slots INTEGER NOT NULL, seal INTEGER NOT NULL)",
    "entries": "CREATE TABLE entries (id INTEGER PRIMARY KEY, identity INTEGER NOT NULL REFERENCES identities (id),"
    " camera INTEGER NOT NULL REFERENCES cameras (id), source TEXT NOT NULL, content_hash TEXT NOT NULL UNIQUE,"
    " added_at TEXT NOT NULL, expires_at REAL, segment INTEGER NOT NULL REFERENCES segments (number),"
    " slot INTEGER NOT NULL, vector_crc INTEGER NOT NULL, token_crc INTEGER NOT NULL, seal INTEGER NOT NULL,"
    " change INTEGER NOT NULL)",
    "entries_identity": "CREATE INDEX entries_identity ON entries (identity)",
    "entries_camera": "CREATE INDEX entries_camera ON entries (camera)",
    "entries_segment": "CREATE INDEX entries_segment ON entries (segment)",
    "entries_change": "CREATE INDEX entries_change ON entries (change)",
    "removed": "CREATE TABLE removed (entry INTEGER PRIMARY KEY, change INTEGER NOT NULL)",
    "removed_change": "CREATE INDEX removed_change ON removed (change)",
    "graphs": "CREATE TABLE graphs (space TEXT PRIMARY KEY, change INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    " crc INTEGER NOT NULL, nodes INTEGER NOT NULL, last_entry INTEGER NOT NULL, seal INTEGER NOT NULL)",
    "audit": "CREATE TABLE audit (id INTEGER PRIMARY KEY, at TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,"
    " count INTEGER NOT NULL, entries TEXT NOT NULL, reason TEXT NOT NULL, seal INTEGER NOT NULL)",
}

_NOTE = struct.Struct("<4sIQQQ")  # magic, CRC-32 of the rest, change, entries, checksum


def seal(*values: object) -> int:
    """CRC-32 over the content of a row."""
    return zlib.crc32(repr(values).encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Head:
    """State of the whole gallery.

    Attributes:
        change: number of the last transaction.
        entries: live entries.
        checksum: sum of the seals of their rows.
        next_entry: id of the next entry.
        next_segment: number of the next segment; neither is ever given twice.
    """

    change: int = 0
    entries: int = 0
    checksum: int = 0
    next_entry: int = 1
    next_segment: int = 1

    def values(self) -> tuple[int, int, int, int, int]:
        """The columns of the row, without seal."""
        return (self.change, self.entries, self.checksum, self.next_entry, self.next_segment)


class Catalogue:
    """A connection to the database of a gallery."""

    def __init__(self, folder: Path, *, writable: bool, disk: Disk) -> None:
        self.folder = folder
        self.path = folder / DATABASE_NAME
        self._disk = disk
        self._noted = self.read_note()
        self.connection, self._frozen = _connect(self.path, writable)
        self._file = _file_of(self.path)
        try:
            self._check_schema()
        except BaseException:
            self.connection.close()
            raise

    @staticmethod
    def create(folder: Path, facts: dict[str, str], disk: Disk) -> None:
        """Make the database of an empty gallery in `folder`."""
        connection = sqlite3.connect(folder / DATABASE_NAME, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN")
            for statement in SCHEMA.values():
                connection.execute(statement)
            for name, value in facts.items():
                connection.execute("INSERT INTO facts VALUES (?, ?, ?)", (name, value, seal(name, value)))
            head = Head().values()
            connection.execute("INSERT INTO head VALUES (1, ?, ?, ?, ?, ?, ?)", (*head, seal(*head)))
            connection.execute(f"PRAGMA user_version={int(facts['format'])}")
            connection.execute("COMMIT")
        finally:
            connection.close()
        disk.sync_folder(folder)

    def check_in_place(self) -> None:
        """Raise GalleryError if another gallery lies where this one did, as after `index build --overwrite`.

        The files that are open here would go on answering with people who may have been erased on purpose.
        """
        if _file_of(self.path) != self._file:
            raise GalleryError(f"{self.folder} was replaced or removed while in use: start again to use what is there")

    def reopen_if_frozen(self) -> None:
        """Look again where the database was opened as one that never changes, for want of permission, and has changed.

        Without permission to write beside it SQLite can neither lock it nor be told of changes.
        """
        if not self._frozen or (noted := self.read_note()) == self._noted:
            return
        try:
            connection, frozen = _connect(self.path, writable=False)
        except GalleryError as error:
            log.warning("%s has changed and is being written; its changes are not seen until that ends", self.folder)
            log.debug("%s", error)
            return
        self.connection.close()
        self.connection, self._frozen, self._noted = connection, frozen, noted

    def close(self) -> None:
        """Close the connection; the last one to close folds the WAL into the database."""
        self.connection.close()

    def facts(self) -> dict[str, str]:
        """What was fixed when the gallery was made."""
        found = {}
        for name, value, sealed in self.connection.execute("SELECT name, value, seal FROM facts"):
            if seal(name, value) != sealed:
                raise self.damaged(f"fact {name} does not match its checksum")
            found[name] = value
        return found

    def head(self) -> Head:
        """State of the gallery as this connection sees it now."""
        rows = self.connection.execute(
            "SELECT change, entries, checksum, next_entry, next_segment, seal FROM head"
        ).fetchall()
        if len(rows) != 1 or seal(*rows[0][:-1]) != rows[0][-1]:
            raise self.damaged("head does not match its checksum")
        return Head(*rows[0][:-1])

    def segments(self) -> dict[int, int]:
        """Slots in use of each segment, by number."""
        found = {}
        for number, slots, sealed in self.connection.execute("SELECT number, slots, seal FROM segments ORDER BY 1"):
            if seal(number, slots) != sealed or number < 1 or slots < 0:
                raise self.damaged(f"row of segment {number} does not match its checksum")
            found[number] = slots
        return found

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read within one transaction."""
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def change(self) -> Iterator["Change"]:
        """Write within one transaction: on return it is on the disk, on an exception nothing happened."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            change = Change(self.connection, self.head())
            yield change
            values = change.head.values()
            self.connection.execute(
                "UPDATE head SET change=?, entries=?, checksum=?, next_entry=?, next_segment=?, seal=?",
                (*values, seal(*values)),
            )
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
            raise
        self.write_note(change.head)

    def write_note(self, head: Head) -> None:
        """Note the last change beside the database; a lost note weakens a check and nothing else."""
        body = struct.pack("<QQQ", head.change, head.entries, head.checksum)
        with contextlib.suppress(OSError):
            self._disk.note(self.folder / NOTE_NAME, struct.pack("<4sI", b"FPCG", zlib.crc32(body)) + body)

    def read_note(self) -> tuple[int, int, int] | None:
        """Return (change, entries, checksum) of the note, or None where it is missing or damaged."""
        try:
            with os.fdopen(open_plain(self.folder / NOTE_NAME), "rb") as file:
                content = file.read(_NOTE.size + 1)
        except OSError:
            return None
        if len(content) != _NOTE.size or content[:4] != b"FPCG":
            return None
        _, crc, change, entries, checksum = _NOTE.unpack(content)
        return (change, entries, checksum) if zlib.crc32(content[8:]) == crc else None

    def lost_changes(self) -> str | None:
        """Say what the note knows and the database does not, or None where they agree."""
        note = self.read_note()  # first: a writer may commit, and then note it, while we look
        head = self.head()
        if note is None or note[0] < head.change:
            return None
        if note[0] > head.change:
            return f"changes {head.change + 1} to {note[0]} are gone"
        if note[1:] != (head.entries, head.checksum):
            return f"change {note[0]} is not the one that was made"
        return None

    def damaged(self, what: str) -> GalleryError:
        """An error that says what is wrong in the database and what to do."""
        return GalleryError(
            f"{self.path} is damaged: {what}; run `fpc-deploy index verify {self.folder}`, or restore a copy"
        )

    def _check_schema(self) -> None:
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT:
            raise GalleryError(
                f"{self.path} has format {version}, this fpc-deploy reads up to {FORMAT}: upgrade fpc-deploy"
            )
        # A database from elsewhere may bring triggers and views; one with anything but our tables is not opened.
        found = dict(self.connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        if found != SCHEMA:
            raise self.damaged("its tables are not those of a gallery")


class Change:
    """A transaction in the making: its number, and the head it will leave behind."""

    def __init__(self, connection: sqlite3.Connection, head: Head) -> None:
        self.connection = connection
        self.head = replace(head, change=head.change + 1)

    def update(self, **values: int) -> None:
        """Change fields of the head."""
        self.head = replace(self.head, **values)

    def put_segment(self, number: int, slots: int) -> None:
        """Insert or update the row of a segment."""
        self.connection.execute(
            "INSERT INTO segments VALUES (?1, ?2, ?3) ON CONFLICT (number) DO UPDATE SET slots=?2, seal=?3",
            (number, slots, seal(number, slots)),
        )


def _file_of(path: Path) -> tuple[int, int] | None:
    """Device and inode; None where there is no file, also a moment later: a replacement takes two renames."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            found = path.stat()
            return found.st_dev, found.st_ino
        time.sleep(_BETWEEN_RENAMES_S)
    return None


def _connect(path: Path, writable: bool) -> tuple[sqlite3.Connection, bool]:
    """Return a connection, and whether it takes the database for one that never changes."""
    if not path.is_file() or path.is_symlink():
        raise GalleryError(f"{path.parent} is not a gallery: it holds no {path.name}; make one with `index build`")
    connection = None
    # A reader needs the shared-memory file that WAL keeps beside the database; on read-only media there can be none.
    for mode in ("mode=rw",) if writable else ("mode=rw", "mode=ro", "immutable=1"):
        if mode == "immutable=1" and path.with_name(path.name + "-wal").exists():
            break
        try:
            connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?{mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=BUSY_SECONDS,
            )
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            break
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if connection is not None:
                connection.close()
            connection, cause = None, error
    if connection is None:
        raise GalleryError(f"{path} cannot be read as a gallery: {cause}; restore a copy or build it anew") from cause
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "temp_store=MEMORY", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    for pragma in ("synchronous=FULL", "secure_delete=ON") if writable else ("query_only=ON",):
        connection.execute(f"PRAGMA {pragma}")
    return connection, mode == "immutable=1"
