"""A way out of a gallery and in again: a .npz file that numpy alone can read, and merging."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from runtime.bundle import Binding
from runtime.errors import GalleryError, GalleryMismatchError
from runtime.files import whole_file
from runtime.gallery.records import AddResult, NewEntry
from runtime.gallery.snapshot import Snapshot

if TYPE_CHECKING:
    from runtime.gallery.gallery import Gallery

_AT_ONCE = 256
_TEXTS = ("identity", "camera", "source", "added_at", "content_hash")


def export_npz(snapshot: Snapshot, binding: Binding, path: Path) -> int:
    """Write a snapshot as `path`, record by record: a gallery may be larger than memory.

    Members: `binding` (JSON), `id` int64, `identity`, `camera`, `source`, `added_at`, `content_hash` (Unicode),
    `expires_at` float64 (infinity: never), `cls` and `descriptor` (n, D) float32, `patches` (n, N, D) float16.
    """
    rows, layout = snapshot.rows, snapshot.layout
    n = len(rows)
    with whole_file(path, GalleryError) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "binding", np.array(binding.model_dump_json()))
        _write(archive, "id", rows.ids)
        _write(archive, "expires_at", rows.expires)
        for column, name in enumerate(_TEXTS):
            _write(archive, name, np.array([text[column] for text in rows.texts], np.str_))
        _stream(archive, "cls", (n, layout.dimension), np.float32, _vectors(snapshot, 0))
        _stream(archive, "descriptor", (n, layout.dimension), np.float32, _vectors(snapshot, 1))
        shape = (n, layout.patches, layout.dimension)
        _stream(archive, "patches", shape, np.float16, _patches(snapshot) if layout.patches else iter(()))
    return n


def import_npz(gallery: "Gallery", path: Path, actor: str | None, reason: str) -> AddResult:
    """Add the entries of a file that `export_npz` wrote; see `Gallery.import_from`."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("`index export` compresses nothing, this file is compressed")  # and may be a bomb
            return _import(gallery, path, archive, actor, reason)
    except OSError as error:
        raise GalleryError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, RuntimeError) as error:  # encrypted, say
        raise GalleryError(f"{path} is not an exported gallery: {error}") from error


def merge(gallery: "Gallery", other: "Gallery", actor: str | None, reason: str) -> AddResult:
    """Add the entries of another gallery; see `Gallery.merge`."""
    _check_binding(gallery, other.binding, str(other.folder))
    if (other.layout.dimension, other.layout.patches) != (gallery.layout.dimension, gallery.layout.patches):
        raise GalleryError(f"{other.folder} keeps other tokens than {gallery.folder}: {other.layout.patches} patches")
    if not len(other):
        return AddResult(())
    return add_from(gallery, other.snapshot(), actor, reason)


def add_from(gallery: "Gallery", snapshot: Snapshot, actor: str | None, reason: str) -> AddResult:
    """Add the entries of a snapshot; tokens go over as they are stored where both galleries store them alike."""
    alike = gallery.layout.codec.same_as(snapshot.layout.codec)
    results = []
    for at in range(0, len(snapshot), _AT_ONCE):
        rows = snapshot.rows.take(np.arange(at, min(at + _AT_ONCE, len(snapshot))))
        stored = snapshot.stored(rows.ids)
        patches: NDArray[np.floating] | NDArray[np.void] | None = None
        if gallery.layout.patches and stored.records is not None:
            patches = np.stack(stored.records) if alike else stored.patches(range(len(rows)))
        records = [_record(text, expires) for text, expires in zip(rows.texts, rows.expires.tolist(), strict=True)]
        descriptor = next(_vectors(snapshot, 1, at))
        results.append(gallery.add(records, stored.cls, descriptor, patches, actor=actor, reason=reason, fold=False))
    return _finish(gallery, results)


def _import(gallery: "Gallery", path: Path, archive: zipfile.ZipFile, actor: str | None, reason: str) -> AddResult:
    columns = {name: _read(archive, name) for name in ("binding", "expires_at", *_TEXTS)}
    if len({columns[name].shape for name in ("expires_at", *_TEXTS)}) != 1 or columns["identity"].ndim != 1:
        raise ValueError("its columns are not of one length")
    try:
        _check_binding(gallery, Binding.model_validate_json(str(columns["binding"])), str(path))
    except ValidationError as error:
        raise GalleryError(f"{path} is not an exported gallery: its binding is damaged") from error
    n, layout = len(columns["identity"]), gallery.layout
    texts = list(zip(*(columns[name].tolist() for name in _TEXTS), strict=True))
    results = []
    with archive.open("cls.npy") as a, archive.open("descriptor.npy") as b, archive.open("patches.npy") as c:
        _expect(a, (n, layout.dimension), np.float32)
        _expect(b, (n, layout.dimension), np.float32)
        _expect(c, (n, layout.patches, layout.dimension), np.float16)
        for at in range(0, n, _AT_ONCE):
            m = min(_AT_ONCE, n - at)
            expires = columns["expires_at"][at : at + m].tolist()
            records = [_record(text, e) for text, e in zip(texts[at : at + m], expires, strict=True)]
            cls = _take(a, (m, layout.dimension), np.float32)
            descriptor = _take(b, (m, layout.dimension), np.float32)
            patches = _take(c, (m, layout.patches, layout.dimension), np.float16)
            results.append(gallery.add(records, cls, descriptor, patches, actor=actor, reason=reason, fold=False))
    return _finish(gallery, results)


def _finish(gallery: "Gallery", results: list[AddResult]) -> AddResult:
    """One result of many; positions count through all batches."""
    gallery.fold()
    added: list[int] = []
    duplicates: list[tuple[int, int]] = []
    conflicts: list[int] = []
    at = 0
    for result in results:
        added += result.added
        duplicates += [(at + position, id_) for position, id_ in result.duplicates]
        conflicts += [at + position for position in result.conflicts]
        at += len(result.added) + len(result.duplicates)
    return AddResult(tuple(added), tuple(duplicates), tuple(conflicts))


def _check_binding(gallery: "Gallery", other: Binding, where: str) -> None:
    if differences := gallery.binding.differences(other):
        raise GalleryMismatchError(f"{where} comes from another bundle: {'; '.join(differences)}")


def _record(text: tuple[str, str, str, str, str], expires: float) -> NewEntry:
    identity, camera, source, added_at, content_hash = text
    return NewEntry(identity, camera, source, content_hash, None if expires == np.inf else expires, added_at)


def _vectors(snapshot: Snapshot, which: int, start: int = 0) -> Iterator[NDArray[np.float32]]:
    for at in range(start, len(snapshot), _AT_ONCE):
        yield snapshot.raw("descriptor" if which else "cls", np.arange(at, min(at + _AT_ONCE, len(snapshot))))


def _patches(snapshot: Snapshot) -> Iterator[NDArray[np.float16]]:
    for at in range(0, len(snapshot), _AT_ONCE):
        patches = snapshot.tokens(snapshot.rows.ids[at : at + _AT_ONCE]).patches
        if patches is not None:
            yield patches


def _write(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _stream(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: type, pieces: Iterator[NDArray[Any]]
) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece).data.cast("B"))


def _read(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        shape, _, kind = _header(file)
        held = archive.getinfo(f"{name}.npy").file_size - file.tell()
        if math.prod(shape) * kind.itemsize > held:
            raise ValueError(f"its {name} claims {kind} {shape} and has {held} bytes")
        file.seek(0)
        found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return found


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran order, and type of the array that a .npy file claims to hold."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_2_0 if version >= (2, 0) else np.lib.format.read_array_header_1_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return found


def _expect(file: IO[bytes], shape: tuple[int, ...], dtype: type) -> None:
    found, fortran, kind = _header(file)
    if found != shape or fortran or kind != np.dtype(dtype):
        raise ValueError(f"it holds {kind} {found} where this gallery takes {np.dtype(dtype)} {shape}")


def _take(file: IO[bytes], shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
    content = file.read(wanted)
    if len(content) != wanted:
        raise ValueError("it is cut off")
    return np.frombuffer(content, dtype).reshape(shape)
