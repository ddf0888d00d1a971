"""The least time a stage could take: what it must multiply and read, at the best rates of the machine.

A floor is the larger of multiply-adds over the rate of products and bytes over the rate of reading; exponentials,
sorting and copies count for nothing. Of the encoder the linear layers count, as in the paper's table 4. Only what is
read from a cache comes out below its floor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.bench.rates import Rates
from runtime.bundle import Bundle, MatchSettings
from runtime.gallery.records import Layout
from runtime.gallery.snapshot import EXACT_SHARE
from runtime.pipeline import MAX_BATCH

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Work:
    """What a stage cannot do without, for one crop.

    Attributes:
        multiply_adds: number.
        bytes: to be read or written.
        where: what multiplies.
    """

    multiply_adds: float
    bytes: float
    where: Literal["encoders", "others", "codes", "numpy"] = "numpy"

    def floor_ms(self, rates: Rates) -> float | None:
        """Return the least milliseconds for a crop; None if the rate of what multiplies could not be measured."""
        rate: float | None = getattr(rates, self.where)
        return None if rate is None else 1e3 * max(self.multiply_adds / rate, self.bytes / rates.bandwidth)


@dataclass(frozen=True)
class Searched:
    """A gallery as far as it decides the work.

    Attributes:
        entries: live ones.
        layout: shape of its records.
        index_from: entries from which HNSW is kept.
        as_bytes: whether its patch tokens are matched as the bytes they are stored in.
    """

    entries: int
    layout: Layout
    index_from: int
    as_bytes: bool = False

    @property
    def width(self) -> int:
        """Numbers of a patch token that products run over."""
        basis = self.layout.codec.basis
        return basis.shape[1] if self.as_bytes and basis is not None else self.layout.dimension


def work_of(
    bundle: Bundle, gallery: Searched, batch: int, picture_bytes: float, bytes_a_weight: float | None = None
) -> Mapping[str, Work]:
    """Return the work of each stage but `total`, for one crop of a batch.

    Args:
        bundle: with a decoder.
        gallery: that is searched.
        batch: crops at a time; they share what is read once a batch.
        picture_bytes: read and written to decode a picture and cut a crop from it.
        bytes_a_weight: of the encoder where the engine calculates in a precision of its own; None is as in the file.
    """
    manifest = bundle.manifest
    shared = min(batch, MAX_BATCH)  # a larger batch is split
    weights = {name: record.bytes / shared for name, record in manifest.files.items()}
    encoder = weights["query_encoder.onnx"] * (1.0 if bytes_a_weight is None else bytes_a_weight / FLOAT32_BYTES)
    settings = manifest.matching
    return {
        "preprocess": Work(0, picture_bytes),
        "encode": Work(1e9 * manifest.multiply_adds_g["query_encoder"], encoder, "encoders"),
        "search": _search(gallery, max(settings.refine, settings.neighbours), shared),
        "emd": _emd(bundle, gallery),
        "decode": _decode(bundle, gallery, weights["decoder.onnx"]),
        "rank": _rank(settings, gallery, shared),
    }


def _search(gallery: Searched, count: int, shared: int) -> Work:
    """Exactly: every vector once a batch. With HNSW: the vectors that are given out."""
    numbers = gallery.entries * gallery.layout.dimension
    if gallery.entries >= gallery.index_from and count <= EXACT_SHARE * gallery.entries:
        found = count * gallery.layout.dimension
        return Work(found, 4 * found)
    return Work(numbers, 4 * numbers / shared)


def _rank(settings: MatchSettings, gallery: Searched, shared: int) -> Work:
    """The nearest entry, and the neighbours of a further pass before it."""
    last, again = _search(gallery, 1, shared), _search(gallery, settings.neighbours, shared)
    passes = settings.passes - 1
    return Work(last.multiply_adds + passes * again.multiply_adds, last.bytes + passes * again.bytes)


def _emd(bundle: Bundle, gallery: Searched) -> Work:
    """Products of the query's patches with those of every candidate, and the steps of Sinkhorn on them."""
    settings, layout = bundle.manifest.matching, gallery.layout
    count = min(max(settings.refine, settings.neighbours), gallery.entries)
    if settings.alpha == 0 or not layout.patches:
        return Work(0, _neighbours(settings, gallery) * (4 * layout.dimension + layout.token_bytes))
    query = _query_patches(bundle)
    products = count * layout.patches * (query + 1) * gallery.width
    steps = 2 * settings.sinkhorn_iterations * count * layout.patches * query
    read = count * (layout.token_bytes + 4 * layout.dimension)
    return Work(products + steps, read, "codes" if gallery.as_bytes else "others")


def _decode(bundle: Bundle, gallery: Searched, weight_bytes: float) -> Work:
    """One row of attention over the neighbours' patches, and one token through the rest of the block."""
    facts, layout = bundle.manifest.model, gallery.layout
    neighbours = _neighbours(bundle.manifest.matching, gallery)
    read = neighbours * max(layout.patches, 1) * gallery.width
    if bundle.manifest.decoder_tokens == "query+gallery":
        read += _query_patches(bundle) * layout.dimension
    # 12 D^2: query, key and value products, projection, and an MLP of four times the width
    multiply_adds = 2 * facts.heads * read + 12 * facts.embed_dim**2
    passes = bundle.manifest.matching.passes
    return Work(passes * multiply_adds, passes * (weight_bytes + neighbours * layout.token_bytes), "others")


def _neighbours(settings: MatchSettings, gallery: Searched) -> int:
    return min(settings.neighbours, gallery.entries)


def _query_patches(bundle: Bundle) -> int:
    kept = bundle.manifest.keep_schedule.kept
    return kept[-1] if kept else bundle.manifest.model.patches
