"""How far a bundle of lower precision is from the one it was made of, over the whole way from crop to score."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from runtime.bundle import Bundle
from runtime.encoder import Encoder, Features
from runtime.engines import Engine, open_engine
from runtime.gallery.protocol import Candidates, Entry, Tokens
from runtime.matching import Consolidator, Matcher

BATCH = 4
TOP = 10


@dataclass(frozen=True)
class Agreement:
    """How a candidate's answers compare with the reference's, over all queries.

    Attributes:
        queries: number of queries, occluded copies included.
        gallery: number of gallery crops.
        descriptor_cosine: mean cosine between the descriptors that both make of a query, before consolidation.
        worst_cosine: least such cosine.
        worst_query: its index.
        consolidated_cosine: mean cosine between what both rank by in the end.
        kept: {"block 3": mean share of patches that both keep}.
        top: mean share of the ten best gallery entries that both name.
        score_shift: mean difference of all scores, candidate minus reference.
        score_spread: standard deviation of those differences.
    """

    queries: int
    gallery: int
    descriptor_cosine: float
    worst_cosine: float
    worst_query: int
    consolidated_cosine: float
    kept: dict[str, float]
    top: float
    score_shift: float
    score_spread: float


def compare_bundles(
    reference: Bundle, candidate: Bundle, queries: NDArray[np.uint8], gallery: NDArray[np.uint8]
) -> Agreement:
    """Encode, match and consolidate the same crops with both bundles, each over a gallery of its own making.

    Args:
        reference: the bundle that is trusted.
        candidate: the bundle of lower precision.
        queries: (q, H, W, 3) uint8, none of them in the gallery.
        gallery: (n, H, W, 3) uint8.
    """
    theirs, mine = (_Answers(bundle, queries, gallery) for bundle in (reference, candidate))
    cosine = (_unit(mine.descriptor) * _unit(theirs.descriptor)).sum(axis=1)
    consolidated = (_unit(mine.consolidated) * _unit(theirs.consolidated)).sum(axis=1)
    count = min(TOP, max(1, len(gallery) // 2))  # of few entries the ten best would be all of them
    best, their_best = (np.argsort(-answers.scores, axis=1)[:, :count] for answers in (mine, theirs))
    difference = mine.scores.astype(np.float64) - theirs.scores
    return Agreement(
        queries=len(queries),
        gallery=len(gallery),
        descriptor_cosine=float(cosine.mean()),
        worst_cosine=float(cosine.min()),
        worst_query=int(cosine.argmin()),
        consolidated_cosine=float(consolidated.mean()),
        kept={block: _mean_overlap(mine.kept[block], places) for block, places in theirs.kept.items()},
        top=_mean_overlap(best, their_best),
        score_shift=float(difference.mean()),
        score_spread=float(difference.std()),
    )


class _Answers:
    """What one bundle says of the crops.

    Attributes:
        descriptor: (q, D) before consolidation.
        consolidated: (q, D) what is ranked by; the same where the bundle has no decoder.
        scores: (q, n) cosine between `consolidated` and the gallery's descriptors.
        kept: {"block 3": (q, k) places in the patch grid that are alive after it}.
    """

    def __init__(self, bundle: Bundle, queries: NDArray[np.uint8], gallery: NDArray[np.uint8]) -> None:
        encoder = Encoder(bundle, sparse=False, engine="onnxruntime")
        entries = _join([encoder.encode(gallery[start : start + BATCH]) for start in range(0, len(gallery), BATCH)])
        features, self.kept = _encode_probed(bundle, queries)
        self.descriptor = self.consolidated = features.descriptor
        if bundle.has("decoder"):
            self.consolidated = _consolidate(bundle, features, entries)
        self.scores = _unit(self.consolidated) @ _unit(entries.descriptor).T


class _CropGallery:
    """The gallery of a comparison: every entry is a candidate."""

    def __init__(self, features: Features) -> None:
        self._features, self._patches = features, features.patches.astype(np.float16)  # as a gallery stores them

    def __len__(self) -> int:
        return len(self._features.cls)

    def search(self, cls: NDArray[np.float32], count: int) -> Candidates:
        return _nearest(cls, self._features.cls, count)

    def rank(self, descriptor: NDArray[np.float32], count: int) -> Candidates:
        return _nearest(descriptor, self._features.descriptor, count)

    def tokens(self, entries: NDArray[np.int64]) -> Tokens:
        return Tokens(self._features.cls[entries], self._patches[entries])

    def entries(self, ids: Sequence[int]) -> list[Entry]:
        return [Entry(number, "", "", "", "") for number in ids]

    def refresh(self) -> bool:
        return False


def _consolidate(bundle: Bundle, queries: Features, entries: Features) -> NDArray[np.float32]:
    settings = bundle.manifest.matching
    matcher = Matcher(bundle, settings, engine="onnxruntime")
    consolidator = Consolidator(bundle, engine="onnxruntime")
    gallery, answers = _CropGallery(entries), []
    for start in range(0, len(queries.cls), BATCH):
        part = slice(start, start + BATCH)
        asked = Features(queries.cls[part], queries.patches[part], queries.descriptor[part])
        nearest = gallery.search(asked.cls, min(settings.refine, len(gallery)))
        neighbours = matcher.refine(asked, nearest.entries, nearest.cosine, gallery)
        answers.append(consolidator.consolidate(asked, neighbours))
    return np.concatenate(answers)


def _encode_probed(bundle: Bundle, crops: NDArray[np.uint8]) -> tuple[Features, dict[str, NDArray[np.int64]]]:
    """Encode queries, and say what was alive after each pruning block."""
    model = onnx.load(bundle.graph_path("query_encoder"))
    chosen = [node.output[1] for node in model.graph.node if node.op_type == "TopK"]
    named = {value.name for value in model.graph.output}
    with tempfile.TemporaryDirectory() as scratch:
        engine = _probed_engine(model, [name for name in chosen if name not in named], Path(scratch))
    parts, alive = [], []
    camera = bundle.manifest.cameras.unknown
    for start in range(0, len(crops), BATCH):
        part = crops[start : start + BATCH]
        answer = engine.run({"crops": part, "camera": np.full(len(part), camera, np.int64)})
        parts.append(Features(**{name: answer[name] for name in ("cls", "patches", "descriptor")}))  # type: ignore[arg-type]
        alive.append(_places([answer[name].astype(np.int64) for name in chosen], bundle.manifest.model.patches))
    names = [f"block {block}" for block in bundle.manifest.keep_schedule.blocks]
    kept = {name: np.concatenate([places[number] for places in alive]) for number, name in enumerate(names)}
    return _join(parts), kept


def _probed_engine(model: ModelProto, extra: Sequence[str], scratch: Path) -> Engine:
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in extra)
    path = scratch / "probed.onnx"
    onnx.save(model, path)
    return open_engine(path, "onnxruntime")


def _places(chosen: Sequence[NDArray[np.int64]], patches: int) -> list[NDArray[np.int64]]:
    """Turn indices into the patches alive at each block into places of the grid."""
    alive, found = np.arange(patches), []
    for index in chosen:
        alive = np.take_along_axis(np.broadcast_to(alive, (len(index), alive.shape[-1])), index, axis=1)
        found.append(alive)
    return found


def _nearest(queries: NDArray[np.float32], entries: NDArray[np.float32], count: int) -> Candidates:
    cosine = _unit(queries) @ _unit(entries).T
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    return Candidates(order, np.take_along_axis(cosine, order, axis=1))


def _join(parts: Sequence[Features]) -> Features:
    return Features(
        cls=np.concatenate([part.cls for part in parts]),
        patches=np.concatenate([part.patches for part in parts]),
        descriptor=np.concatenate([part.descriptor for part in parts]),
    )


def _mean_overlap(found: NDArray[np.int64], reference: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(found, reference, strict=True)]))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))
    return unit
