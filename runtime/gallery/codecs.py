"""How patch tokens lie on the disk: as float16, or as one byte a number in a basis of their own.

A compact token is kept as its norm and its direction, the direction in an orthonormal basis, the coordinates as bytes:
`x ~ norm * scale * basis @ (codes - 128)`. So the cosine with a query q is `scale * (basis.T @ q) . (codes - 128)`:
neither the EMD nor the decoder has to bring a token back to its full length. The basis is learned from tokens of the
gallery (the leading singular vectors, not centred: a direction has its origin at 0) and then turned at random within
its span: turned, all coordinates are of one size, so that a byte each is enough, where singular vectors give one large
coordinate and many small ones, and raw tokens of a transformer a few outlying dimensions.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.errors import GalleryError

FLOAT16 = "float16"
INT8 = "int8"
ZERO_CODE = 128
"""The byte that stands for 0; codes are 1 to 255."""
LARGEST_HALF = 65504.0
_MOST_COORDINATES = 4096  # a hostile gallery may claim more; its basis would not fit memory
_LEARNED = re.compile(r"svd-([1-9][0-9]{0,4})")
_STEPS = 127  # of a byte, on either side of 0
_TURN_SEED = 0  # of the random turn; stored with the basis, so it may change
_ORTHONORMAL = 1e-3  # how far a stored basis may be from it


@dataclass(frozen=True, eq=False)
class TokenCodec:
    """How the patch tokens of a gallery are stored.

    Attributes:
        name: "float16", "int8" (a byte a number) or "svd-R" (a byte for each of R coordinates).
        basis: (D, R) float32 with orthonormal columns; None for float16.
    """

    name: str = FLOAT16
    basis: NDArray[np.float32] | None = None

    def record(self, patches: int, dimension: int) -> np.dtype[np.void]:
        """The record of one entry.

        float16: `tokens` (N, D) float16. Else: `scales` (N,) float32, `norms` (N,) float32, `codes` (N, R) uint8.
        """
        if self.basis is None:
            return np.dtype([("tokens", np.float16, (patches, dimension))])
        return np.dtype(
            [
                ("scales", np.float32, (patches,)),
                ("norms", np.float32, (patches,)),
                ("codes", np.uint8, (patches, self.basis.shape[1])),
            ]
        )

    def same_as(self, other: "TokenCodec") -> bool:
        """Whether records of one are records of the other."""
        if self.basis is None or other.basis is None:
            return self.basis is other.basis
        return self.name == other.name and np.array_equal(self.basis, other.basis)

    def patches_of(self, record: NDArray[np.void]) -> int:
        """N of a record."""
        return int(record["tokens" if self.basis is None else "codes"].shape[-2])

    def encode(self, tokens: NDArray[np.floating]) -> NDArray[np.void]:
        """Bring (n, N, D) tokens into (n,) records; what does not fit becomes infinite or NaN (see `finite`)."""
        n, patches, dimension = tokens.shape
        records = np.empty(n, self.record(patches, dimension))
        with np.errstate(over="ignore", invalid="ignore"):
            if self.basis is None:
                records["tokens"] = tokens
                return records
            for row, entry in enumerate(tokens.astype(np.float32, copy=False)):
                self.store(records[row, ...], entry @ self.basis, np.linalg.norm(entry, axis=1))
        return records

    def store(self, record: NDArray[np.void], coordinates: NDArray[np.float32], norms: NDArray[np.float32]) -> None:
        """Write one entry's (N, R) coordinates and the (N,) norms of its tokens into a compact record."""
        largest = np.abs(coordinates).max(axis=1) / _STEPS
        steps = np.rint(coordinates / np.where(largest > 0, largest, 1)[:, None])
        np.nan_to_num(steps, copy=False)
        # Directions of length 1 as the bytes have them: where tokens are nearly alike, it is what tells them apart.
        lengths = np.linalg.norm(steps, axis=1)
        record["norms"], record["scales"] = norms, np.where(lengths > 0, 1 / np.where(lengths > 0, lengths, 1), 0)
        record["codes"] = steps.astype(np.int16) + ZERO_CODE

    def finite(self, records: NDArray[np.void]) -> NDArray[np.bool_]:
        """(n,) whether every number of a record is one that a float16 could hold."""
        if self.basis is None:
            whole: NDArray[np.bool_] = np.isfinite(records["tokens"]).all(axis=(1, 2))
            return whole
        held: NDArray[np.bool_] = np.isfinite(records["scales"]).all(axis=1)
        return held & (records["norms"] <= LARGEST_HALF).all(axis=1)

    def decode(self, records: Sequence[NDArray[np.void]]) -> NDArray[np.float32]:
        """Bring n records, one or more, each without axes, back to (n, N, D) tokens."""
        if self.basis is None:
            return np.stack([record["tokens"] for record in records]).astype(np.float32)
        tokens = np.empty((len(records), len(records[0]["scales"]), len(self.basis)), np.float32)
        for found, record in zip(tokens, records, strict=True):
            steps = record["codes"].astype(np.float32) - ZERO_CODE
            np.matmul(steps, self.basis.T, out=found)
            found *= (record["scales"] * record["norms"])[:, None]
        return tokens


FULL_TOKENS = TokenCodec()


def coordinates_of(name: str, dimension: int) -> int | None:
    """Return R of a codec's name, or None for float16.

    Raises:
        GalleryError: no codec of this name, or more coordinates than tokens have numbers.
    """
    if name == FLOAT16:
        return None
    if dimension > _MOST_COORDINATES:
        raise GalleryError(f"tokens of {dimension} numbers can be stored as {FLOAT16} only")
    if name == INT8:
        return dimension
    found = _LEARNED.fullmatch(name)
    if found is None:
        raise GalleryError(f"no token store {name!r}: choose {FLOAT16}, {INT8} or svd-R, as in svd-{dimension // 2}")
    rank = int(found[1])
    if rank > dimension:
        raise GalleryError(f"{name}: tokens of this model have {dimension} numbers, choose fewer coordinates")
    return rank


def is_learned(name: str) -> bool:
    """Whether the basis of this codec is learned from tokens."""
    return _LEARNED.fullmatch(name) is not None


def make_codec(name: str, dimension: int, sample: Iterable[NDArray[np.floating]] = ()) -> TokenCodec:
    """Make the codec of a new gallery.

    Args:
        name: see `TokenCodec`.
        dimension: D.
        sample: (n, N, D) tokens to learn a basis from, piece by piece; only for `svd-R`.

    Raises:
        GalleryError: no codec of this name, or nothing to learn from.
    """
    rank = coordinates_of(name, dimension)
    if rank is None:
        return TokenCodec()
    if not is_learned(name):
        return TokenCodec(name, _turned(np.eye(dimension)))
    gram = np.zeros((dimension, dimension))
    seen = 0
    for tokens in sample:
        flat = tokens.reshape(-1, dimension).astype(np.float32)
        norms = np.linalg.norm(flat, axis=1)
        unit = flat[norms > 0] / norms[norms > 0, None]
        gram += unit.T @ unit
        seen += len(unit)
    if not seen:
        raise GalleryError(f"{name} learns its basis from tokens, and there are none")
    _, vectors = np.linalg.eigh(gram)  # ascending
    return TokenCodec(name, _turned(vectors[:, ::-1][:, :rank]))


def read_codec(name: str, dimension: int, content: bytes | None) -> TokenCodec:
    """Make the codec of a gallery on the disk; `content` is that of its basis file.

    Raises:
        GalleryError: the name is unknown, or the content is not an orthonormal basis of its size.
    """
    rank = coordinates_of(name, dimension)
    if rank is None:
        return TokenCodec()
    if content is None or len(content) != 4 * dimension * rank:
        raise GalleryError(f"the basis of its tokens is not {dimension} x {rank} float32")
    basis = np.frombuffer(content, np.float32).reshape(dimension, rank)
    if not np.isfinite(basis).all() or np.abs(basis.T @ basis - np.eye(rank)).max() > _ORTHONORMAL:
        raise GalleryError("the basis of its tokens is not orthonormal")
    return TokenCodec(name, basis)


def _turned(basis: NDArray[np.float64]) -> NDArray[np.float32]:
    """Turn a (D, R) basis at random within its span."""
    rng = np.random.default_rng(_TURN_SEED)
    turn, _ = np.linalg.qr(rng.standard_normal((basis.shape[1],) * 2))
    return np.ascontiguousarray(basis @ turn, np.float32)
