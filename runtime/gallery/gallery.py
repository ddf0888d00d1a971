"""The embedded gallery: a folder with a small database, data files and HNSW links beside it."""

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from runtime.bundle import Binding
from runtime.errors import GalleryError, GalleryMismatchError
from runtime.gallery import audit, compaction, folding, interchange, verification
from runtime.gallery.catalogue import FORMAT, PLAIN_FORMAT, Catalogue, Head
from runtime.gallery.codecs import FULL_TOKENS, TokenCodec, coordinates_of, read_codec
from runtime.gallery.disk import Disk, open_plain
from runtime.gallery.follower import Follower
from runtime.gallery.protocol import Candidates, Entry, StoredTokens, Tokens
from runtime.gallery.records import (
    AddResult,
    AuditRecord,
    Compaction,
    Info,
    Layout,
    NewEntry,
    Settings,
    Verification,
)
from runtime.gallery.rows import Rows
from runtime.gallery.snapshot import Snapshot
from runtime.gallery.writer import HOLDER_NAME, Writer, check_batch, lock_for_writing, utc

log = logging.getLogger(__name__)

DEFAULT_SETTINGS = Settings()
BASIS_NAME = "tokens.basis"
_FEWEST_SEGMENT_ENTRIES, _MOST_SEGMENT_ENTRIES = 64, 65_536


class Gallery:
    """A gallery on disk, open for reading and, where asked, for writing. Implements `GalleryReader`.

    Any number of processes read while one writes. Queries see one snapshot from start to end; `search` and `rank`
    follow the writer by themselves, so that no answer comes from a view older than `settings.refresh_seconds`. Make one
    with `create` or `open`, and use it as a context manager, or `close` it.

    Attributes:
        folder: where it lies.
        binding: what it shares with the bundle that made it.
        layout: shape of its records.
        settings: how it works.
    """

    def __init__(
        self, folder: Path, catalogue: Catalogue, settings: Settings, lock: FileLock | None, disk: Disk, salvage: bool
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.binding, self.layout, self.created_at = _facts(folder, catalogue)
        self._catalogue = catalogue
        # A connection of its own: queries of one thread follow while another thread is in the middle of a change.
        self._reading = Catalogue(folder, writable=False, disk=disk)
        self._lock = lock
        self._writer = Writer(folder, catalogue, self.layout, disk) if lock else None
        self._follower = Follower(folder, self._reading, self.layout, settings, salvage)
        self._hashing = threading.Lock()  # `holder_of` is asked by the threads that decode images
        self._hashes: dict[str, tuple[int, str]] = {}
        self._hashed_change = -1

    @classmethod
    def create(
        cls,
        folder: str | Path,
        binding: Binding,
        dimension: int,
        patches_per_entry: int,
        *,
        codec: TokenCodec = FULL_TOKENS,
        settings: Settings = DEFAULT_SETTINGS,
        disk: Disk | None = None,
    ) -> "Gallery":
        """Make an empty gallery and open it for writing.

        Args:
            folder: must not exist, or be empty.
            binding: what it must share with every bundle that reads it.
            dimension: D.
            patches_per_entry: N; 0 keeps [cls] tokens only.
            codec: how patch tokens are stored; see `runtime.gallery.codecs.make_codec`.
            settings: how it works; `segment_bytes` or `segment_entries` is remembered.
            disk: how files are written; tests substitute one that fails.

        Raises:
            GalleryError: the folder is in use or cannot be made.
        """
        folder, disk = Path(folder), disk or Disk()
        if dimension < 1 or patches_per_entry < 0:
            raise GalleryError(f"a gallery of dimension {dimension} with {patches_per_entry} patches cannot be made")
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise GalleryError(f"{folder} exists already: choose another folder, or remove it first")
        shape = Layout(dimension, patches_per_entry, 1, codec)
        record_bytes = shape.vector_bytes + shape.token_bytes
        fitting = max(_FEWEST_SEGMENT_ENTRIES, min(_MOST_SEGMENT_ENTRIES, settings.segment_bytes // record_bytes))
        basis = b"" if codec.basis is None else codec.basis.tobytes()
        facts = {
            "format": str(FORMAT if basis else PLAIN_FORMAT),
            "tokens": codec.name,
            "basis": hashlib.sha256(basis).hexdigest() if basis else "",
            "binding": binding.model_dump_json(),
            "dimension": str(dimension),
            "patches": str(patches_per_entry),
            "segment_entries": str(settings.segment_entries or fitting),
            "created_at": audit.now(),
        }
        beside = folder.parent / f".{folder.name}.{os.getpid()}.new"
        with reported(folder):
            beside.mkdir(parents=True)
            try:
                if basis:
                    disk.publish(beside / BASIS_NAME, basis)
                Catalogue.create(beside, facts, disk)
                disk.rename(beside, folder)
                disk.sync_folder(folder.parent)
            except BaseException:
                discard_folder(beside)
                raise
        return cls.open(folder, binding, writable=True, settings=settings, disk=disk)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        binding: Binding | None = None,
        writable: bool = False,
        *,
        settings: Settings = DEFAULT_SETTINGS,
        disk: Disk | None = None,
        salvage: bool = False,
    ) -> "Gallery":
        """Open a gallery.

        Args:
            folder: where it lies.
            binding: of the bundle it is to be used with; None skips that check.
            writable: take the writer's lock, and clear away what an interrupted writer left.
            settings: how it works.
            disk: how files are written.
            salvage: open in spite of changes that the database lost; for `verify`.

        Raises:
            GalleryMismatchError: made by another bundle; the message names what differs.
            GalleryError: not a gallery, damaged, of a newer format, or locked by another writer.
        """
        folder = Path(folder)
        with reported(folder), contextlib.ExitStack() as undo:
            if not folder.is_dir():
                raise GalleryError(f"{folder} is not a gallery: no such folder; make one with `fpc-deploy index build`")
            lock = lock_for_writing(folder, settings) if writable else None
            if lock:
                undo.callback(lock.release)
            catalogue = Catalogue(folder, writable=writable, disk=disk or Disk())
            undo.callback(catalogue.close)
            gallery = cls(folder, catalogue, settings, lock, disk or Disk(), salvage)
            undo.callback(gallery._reading.close)
            if binding is not None and (differences := gallery.binding.differences(binding)):
                raise GalleryMismatchError(
                    f"{folder} was made by another bundle: {'; '.join(differences)}; build it anew with this bundle"
                )
            lost = catalogue.lost_changes()
            if lost and not salvage:
                raise catalogue.damaged(f"{lost}, though they had been made")
            if gallery._writer:
                gallery._writer.recover()
            gallery._follower.follow()
            undo.pop_all()
        return gallery

    def close(self) -> None:
        """Close the database and give the lock back; the gallery cannot be used afterwards."""
        self._follower.stop()
        self._reading.close()
        self._catalogue.close()
        if self._lock and self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self.folder / HOLDER_NAME).unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    # --- Reading -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of live entries."""
        return len(self._follower.current)

    def search(self, cls: NDArray[np.float32], count: int) -> Candidates:
        """Find the `count` entries nearest to each of (B, D) [cls] tokens by their cosine, or all that there are.

        Raises:
            GalleryError: the gallery is empty, or a query is of another shape, zero or not finite.
        """
        return self.snapshot().nearest("cls", cls, count)

    def rank(self, descriptor: NDArray[np.float32], count: int) -> Candidates:
        """Find the `count` entries nearest to each of (B, D) descriptors by cosine of descriptors; see `search`."""
        return self.snapshot().nearest("descriptor", descriptor, count)

    def compare(self, descriptor: NDArray[np.float32], entries: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (B, C) float32 cosines of (B, D) descriptors with those of (B, C) entries; see `tokens`, `search`."""
        return self._follower.holding(entries.ravel()).compare("descriptor", descriptor, entries)

    def tokens(self, entries: NDArray[np.int64]) -> Tokens:
        """Read the token memory of (n,) entries, in that order.

        Ids that `search` or `rank` gave out stay readable for `settings.refresh_seconds` after their removal was seen,
        so that a query that is under way ends.

        Raises:
            GalleryError: an id is not in the gallery, or its record is damaged.
        """
        return self._follower.holding(entries).tokens(entries)

    def stored(self, entries: NDArray[np.int64]) -> StoredTokens:
        """Find the token memory of (n,) entries where it lies, in that order; see `tokens`.

        Raises:
            GalleryError: an id is not in the gallery, or its record is damaged.
        """
        return self._follower.holding(entries).stored(entries)

    def entries(self, ids: Sequence[int]) -> list[Entry]:
        """Look up entries by id, in that order; see `tokens` for removed ones.

        Raises:
            GalleryError: an id is not in the gallery.
        """
        return self._follower.holding(np.asarray(ids, np.int64)).entries(ids)

    def holder_of(self, content_hash: str) -> tuple[int, str] | None:
        """Id and identity of the entry with this content hash; None also where its time is over: `add` replaces it."""
        found = self._known_hashes().get(content_hash)
        if found is None:
            return None
        rows = self._follower.rows
        (position,), (known,) = rows.find(np.array(found[:1], np.int64))
        return found if known and rows.expires[position] > time.time() else None

    def snapshot(self) -> Snapshot:
        """The gallery as it is now, not older than `settings.refresh_seconds`; it does not change any more.

        Raises:
            GalleryError: the gallery is empty.
        """
        with reported(self.folder):
            snapshot = self._follower.fresh()
        if not len(snapshot):
            raise GalleryError(
                f"{self.folder} is empty: add images with `fpc-deploy index add SOURCE --gallery {self.folder}`"
            )
        return snapshot

    def refresh(self) -> bool:
        """Follow additions and removals made since; return whether anything changed."""
        with reported(self.folder):
            return self._follower.follow()

    def warm_up(self) -> None:
        """Load HNSW now; otherwise searches of a large gallery are exact, and slower, until a thread has loaded it."""
        with reported(self.folder):
            self._follower.load_graphs()

    # --- Writing -------------------------------------------------------------------------------------------------

    def add(
        self,
        records: Sequence[NewEntry],
        cls: NDArray[np.float32],
        descriptor: NDArray[np.float32],
        patches: NDArray[np.floating] | NDArray[np.void] | None = None,
        *,
        actor: str | None = None,
        reason: str = "",
        fold: bool = True,
    ) -> AddResult:
        """Add n entries in one transaction; when this returns they are on the disk.

        Args:
            records: n facts.
            cls: (n, D) float32, not normalised.
            descriptor: (n, D) float32.
            patches: (n, N, D), kept as the gallery's codec has it, or (n,) records of that codec; None in a gallery
                without patches.
            actor: who asks, for the audit log; None is the user of this process.
            reason: why, for the audit log.
            fold: take entries into HNSW when enough have gathered; a bulk load does so once, with `fold`.

        Raises:
            GalleryError: not writable, wrong shapes or values, or the disk failed (then nothing was added).
        """
        writer = self._writable()
        with reported(self.folder):
            batch = check_batch(self.layout, records, cls, descriptor, patches)
            self._remove_expired(actor)  # whoever is enrolled again is new
            result = writer.add(batch, self._known_hashes(), actor, reason)
            self._follower.follow()
            if fold:
                folding.fold_if_due(writer, self._follower, self.settings)
        return result

    def remove(
        self,
        *,
        identity: str | None = None,
        entries: Iterable[int] | None = None,
        camera: str | None = None,
        before: datetime | None = None,
        expired: bool = False,
        actor: str | None = None,
        reason: str = "",
    ) -> tuple[int, ...]:
        """Remove the entries that fit all the conditions given, in one transaction; return their ids.

        Their vectors and tokens leave the disk with `compact`.

        Args:
            identity: of this identity.
            entries: among these ids.
            camera: of this camera.
            before: added before this time.
            expired: whose time to live is over.
            actor: who asks, for the audit log.
            reason: why, for the audit log; a removed identity's name is taken out of it.

        Raises:
            GalleryError: not writable, no condition, an unknown id, or the disk failed (then nothing was removed).
        """
        writer = self._writable()
        if identity is None and entries is None and camera is None and before is None and not expired:
            raise GalleryError("nothing to remove: name an identity, entries, a camera or a date")
        with reported(self.folder):
            self._follower.follow()
            rows = self._follower.rows
            keep = np.ones(len(rows), bool)
            if entries is not None:
                chosen = rows.positions(_ids(entries))
                keep = np.isin(np.arange(len(rows)), chosen)
            for column, wanted in ((0, identity), (1, camera)):
                if wanted is not None:
                    keep &= np.fromiter((text[column] == wanted for text in rows.texts), bool, len(rows))
            if before is not None:
                limit = utc(before.isoformat())
                keep &= np.fromiter((text[3] < limit for text in rows.texts), bool, len(rows))
            if expired:
                keep &= rows.expires <= time.time()
            chosen_rows = rows.take(keep)
            if len(chosen_rows):
                writer.remove(chosen_rows.ids.tolist(), "expire" if expired else "remove", actor, reason)
                self._follower.follow()
        return tuple(chosen_rows.ids.tolist())

    def fold(self) -> None:
        """Bring HNSW up to date now, building it where it is missing; nothing where the gallery is small."""
        writer = self._writable()
        with reported(self.folder):
            folding.fold(writer, self._follower, self.settings)

    def compact(self, *, actor: str | None = None, reason: str = "") -> Compaction:
        """Give space back, and take every byte of removed entries off the disk; readers go on meanwhile."""
        writer = self._writable()
        with reported(self.folder):
            self._remove_expired(actor)
            return compaction.compact(writer, self._follower, self.settings, actor, reason)

    def verify(self, *, repair: bool = False, actor: str | None = None, recall_queries: int = 100) -> Verification:
        """Check every checksum and every reference, HNSW against the truth, and its recall against exact search.

        Args:
            repair: put right what can be: HNSW is rebuilt, entries whose records are damaged are removed and named.
            actor: who asks, for the audit log.
            recall_queries: entries of the gallery to measure recall with.

        Raises:
            GalleryError: to repair, the gallery must be writable.
        """
        writer = self._writable() if repair else None
        with reported(self.folder):
            return verification.verify(
                self.folder, self._catalogue, self._follower, self.settings, writer, actor, recall_queries
            )

    def export_to(self, path: str | Path) -> int:
        """Write all live entries to a .npz file that numpy alone can read; return how many."""
        with reported(self.folder):
            self._follower.follow()
            return interchange.export_npz(self._follower.current, self.binding, Path(path))

    def import_from(self, path: str | Path, *, actor: str | None = None, reason: str = "") -> AddResult:
        """Add the entries of a .npz file that `export_to` wrote, keeping their dates; known images are left out.

        Raises:
            GalleryMismatchError: the file comes from a gallery of another bundle.
            GalleryError: not such a file, or not writable.
        """
        return interchange.import_npz(self, Path(path), actor, reason or "import")

    def merge(self, other: "Gallery", *, actor: str | None = None, reason: str = "") -> AddResult:
        """Add the entries of another gallery of the same bundle, keeping their dates; known images are left out."""
        return interchange.merge(self, other, actor, reason or "merge")

    # --- About it ------------------------------------------------------------------------------------------------

    def audit(self) -> list[AuditRecord]:
        """The audit log, oldest first."""
        with reported(self.folder):
            return audit.read(self._catalogue)

    def info(self) -> Info:
        """Facts and sizes."""
        with reported(self.folder):
            self._follower.follow()
            rows, head = self._follower.current.rows, self._follower.head
            connection = self._catalogue.connection
            slots = sum(self._catalogue.segments().values())
            return Info(
                folder=str(self.folder),
                entries=len(rows),
                identities=len({text[0] for text in rows.texts}),
                cameras=len({text[1] for text in rows.texts} - {""}),
                dimension=self.layout.dimension,
                patches_per_entry=self.layout.patches,
                tokens=self.layout.codec.name if self.layout.patches else "cls",
                token_bytes_per_entry=self.layout.token_bytes,
                segments=len(self._catalogue.segments()),
                removed_not_compacted=slots - head.entries,
                expiring=int(np.isfinite(rows.expires).sum()),
                indexed=dict(connection.execute("SELECT space, nodes FROM graphs ORDER BY space")),
                bytes=folder_bytes(self.folder),
                created_at=self.created_at,
                model_hash=self.binding.model_hash,
                precision=self.binding.precision,
                change=head.change,
            )

    @property
    def head(self) -> Head:
        """State of the database as of the last refresh."""
        return self._follower.head

    def _remove_expired(self, actor: str | None) -> None:
        if self._follower.rows.next_expiry <= time.time():
            self.remove(expired=True, actor=actor, reason="time to live is over")

    def _writable(self) -> Writer:
        if self._writer is None:
            raise GalleryError(f"{self.folder} was opened for reading: open it with writable=True")
        return self._writer

    def _known_hashes(self) -> dict[str, tuple[int, str]]:
        """Content hash of each entry, kept from one addition to the next."""
        with self._hashing:
            rows: Rows = self._follower.rows
            if self._hashed_change != self._follower.removals:
                self._hashes = {}
                self._hashed_change = self._follower.removals
            newer = len(self._hashes)  # entries are added at the end; a removal starts anew
            for id_, text in zip(rows.ids[newer:].tolist(), rows.texts[newer:], strict=True):
                self._hashes[text[4]] = (id_, text[0])
            return self._hashes


def _ids(entries: Iterable[int]) -> NDArray[np.int64]:
    try:
        return np.fromiter(entries, np.int64)
    except OverflowError as error:
        raise GalleryError(f"there is no entry of so large a number: {error}") from error


@contextlib.contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Turn what the disk and the database raise into a `GalleryError` that names the gallery."""
    try:
        yield
    except OSError as error:
        raise GalleryError(
            f"{folder}: {error.strerror or error}: nothing was changed by the step that failed"
        ) from error
    except UnicodeEncodeError as error:
        raise GalleryError(f"{folder}: {error.object[:40]!r} is not Unicode text: nothing was changed") from error
    except (sqlite3.Error, UnicodeDecodeError) as error:  # sqlite3 stumbles over its own message on a damaged schema
        raise GalleryError(
            f"{folder}: its database fails ({error}); check the disk, then run `fpc-deploy index verify {folder}`"
        ) from error


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def discard_folder(folder: Path) -> None:
    """Delete a folder of plain files, as far as that goes."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _facts(folder: Path, catalogue: Catalogue) -> tuple[Binding, Layout, str]:
    facts = catalogue.facts()
    try:
        binding = Binding.model_validate(json.loads(facts["binding"]))
        layout = Layout(int(facts["dimension"]), int(facts["patches"]), int(facts["segment_entries"]))
        created_at = str(datetime.fromisoformat(facts["created_at"]).astimezone(timezone.utc).isoformat())
    except (KeyError, ValueError) as error:
        raise catalogue.damaged(f"its facts are not those of a gallery ({error})") from error
    if not (0 < layout.dimension <= 2**16 and 0 <= layout.patches <= 2**16 and 0 < layout.segment_entries <= 2**24):
        raise catalogue.damaged(f"its layout is out of range ({layout})")
    codec = _codec(folder, catalogue, facts, layout.dimension) if layout.patches else FULL_TOKENS
    return binding, replace(layout, codec=codec), created_at


def _codec(folder: Path, catalogue: Catalogue, facts: dict[str, str], dimension: int) -> TokenCodec:
    """The codec that the facts name; galleries made before there were others say nothing of it."""
    name = facts.get("tokens", FULL_TOKENS.name)
    try:
        rank = coordinates_of(name, dimension)
        content = None if rank is None else _read_basis(folder / BASIS_NAME, 4 * dimension * rank)
        if content is not None and hashlib.sha256(content).hexdigest() != facts.get("basis"):
            raise GalleryError("it does not match its checksum")
        return read_codec(name, dimension, content)
    except (GalleryError, OSError) as error:
        raise catalogue.damaged(f"its tokens cannot be read, {BASIS_NAME}: {error}") from error


def _read_basis(path: Path, size: int) -> bytes:
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read(size + 1)
