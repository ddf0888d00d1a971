"""Segments: append-only pairs of data files, memory-mapped.

`vectors-000001.bin` holds [cls] and descriptor of each entry as float32, `tokens-000001.bin` its patch tokens as the
gallery's codec has them (see `runtime.gallery.codecs`); both by slot, with no header and no padding.

A record is checked against its CRC-32, which is seeded with the id of its entry so that a record in a wrong place fails
too, when a process first touches it; the result is remembered. What rots after that, behind the page cache's back, is
left to `verify`.
"""

import mmap
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import GalleryError
from runtime.gallery.disk import open_plain
from runtime.gallery.records import SPACES, Layout, Space

VECTORS_NAME = "vectors-{:06d}.bin"
TOKENS_NAME = "tokens-{:06d}.bin"
_CHECKED_AT_ONCE = 512


def record_crc(entry: int, record: memoryview) -> int:
    """CRC-32 of a record, seeded with the id of its entry."""
    return zlib.crc32(record, entry & 0xFFFFFFFF)


class Segment:
    """One segment as a reader maps it; keeps working after the writer has deleted its files.

    Args:
        folder: the gallery.
        number: which segment.
        layout: shape of its records.
    """

    def __init__(self, folder: Path, number: int, layout: Layout) -> None:
        self.number = number
        self.vectors_path = folder / VECTORS_NAME.format(number)
        self.tokens_path = folder / TOKENS_NAME.format(number)
        self._layout = layout
        self.slots = 0
        self._vectors = np.empty((0, 2, layout.dimension), np.float32)
        self._tokens = np.empty(0, layout.codec.record(layout.patches, layout.dimension))
        # By slot: reciprocal norms of both vectors; NaN where not looked at yet, 0 where the record is damaged.
        self._scales = np.empty((2, 0), np.float32)
        self._token_state = np.empty(0, np.int8)  # 0 not looked at yet, 1 good, -1 damaged

    def grow(self, slots: int) -> None:
        """Make `slots` records readable, or as many as the files hold: then `self.slots` stays below."""
        if slots <= self.slots:
            return
        layout = self._layout
        vectors = _map(self.vectors_path, layout.vector_bytes)
        held = len(vectors) // layout.vector_bytes
        if layout.patches:
            tokens = _map(self.tokens_path, layout.token_bytes)
            held = min(held, len(tokens) // layout.token_bytes)
        slots = min(slots, held)
        if slots <= self.slots:
            return
        self._vectors = np.frombuffer(vectors, np.float32).reshape(-1, 2, layout.dimension)
        if layout.patches:
            self._tokens = np.frombuffer(tokens, self._tokens.dtype)
        # New arrays, so that a query in another thread goes on with those it has.
        scales = np.full((2, slots), np.nan, np.float32)
        scales[:, : self.slots] = self._scales
        state = np.zeros(slots, np.int8)
        state[: self.slots] = self._token_state
        self._scales, self._token_state = scales, state
        self.slots = slots

    def vectors(self, space: Space) -> NDArray[np.float32]:
        """(slots, D) float32, a strided view of the file."""
        return self._vectors[:, SPACES.index(space)]

    def record(self, slot: int) -> tuple[memoryview, memoryview]:
        """The bytes of the vectors and of the tokens in a slot."""
        return self._vectors[slot].data.cast("B"), self._token_bytes(slot)

    def scales(
        self, space: Space, slots: NDArray[np.int64], ids: NDArray[np.int64], crcs: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return (n,) reciprocal norms of the vectors in `slots`; 0 where a record does not match its CRC-32."""
        known = self._scales
        new = np.flatnonzero(np.isnan(known[0, slots]))
        for at in range(0, len(new), _CHECKED_AT_ONCE):
            part = new[at : at + _CHECKED_AT_ONCE]
            records = self._vectors[slots[part]]
            good = [
                record_crc(id_, record.data.cast("B")) == crc
                for id_, record, crc in zip(ids[part].tolist(), records, crcs[part].tolist(), strict=True)
            ]
            found = np.where(good, reciprocal_norms(records).T, 0)
            known[1, slots[part]] = found[1]
            known[0, slots[part]] = found[0]  # last: it is what another thread looks at
        scales: NDArray[np.float32] = known[SPACES.index(space), slots]
        return scales

    def check_tokens(
        self, slots: NDArray[np.int64], ids: NDArray[np.int64], crcs: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return (n,) whether the tokens in `slots` match their CRC-32; each is read when it is first asked for."""
        state = self._token_state
        new = np.flatnonzero(state[slots] == 0)
        for i in new[np.argsort(slots[new])]:  # in the order of the file
            slot = int(slots[i])
            if not state[slot]:
                good = record_crc(int(ids[i]), self._token_bytes(slot)) == crcs[i]
                state[slot] = 1 if good else -1
        good_slots: NDArray[np.bool_] = state[slots] > 0
        return good_slots

    def tokens(self, slot: int) -> NDArray[np.void]:
        """The tokens in a slot, a record of no axes: a view of the file."""
        record: NDArray[np.void] = self._tokens[slot, ...]
        return record

    def _token_bytes(self, slot: int) -> memoryview:
        if not self._layout.patches:
            return memoryview(b"")
        return self._tokens[slot : slot + 1].view(np.uint8).data


def reciprocal_norms(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / L2 norm along the last axis, summed in float64."""
    with np.errstate(all="ignore"):  # a record of a hostile gallery may hold anything: 0 marks it as damaged
        squares = np.einsum("...d,...d->...", vectors, vectors, dtype=np.float64)
        scales = (1 / np.sqrt(squares)).astype(np.float32)
    return np.where(np.isfinite(scales), scales, np.float32(0))


def _map(path: Path, record_bytes: int) -> mmap.mmap | bytes:
    """Map the whole records of a file; empty where it is missing.

    Raises:
        GalleryError: it is a link, or cannot be read.
    """
    try:
        fd = open_plain(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise GalleryError(f"{path} cannot be read: {error.strerror}; a gallery holds plain files only") from error
    try:
        size = os.fstat(fd).st_size // record_bytes * record_bytes
        return mmap.mmap(fd, size, access=mmap.ACCESS_READ) if size else b""
    finally:
        os.close(fd)
