"""What a bundle says of crops, over the whole way from crop to score, with a gallery of its own making in memory."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from runtime.bundle import Bundle
from runtime.encoder import Encoder, Features
from runtime.engines import Engine, open_engine
from runtime.gallery.protocol import Candidates, Entry, StoredTokens, Tokens
from runtime.matching import Consolidator, Matcher, Neighbours, neighbours_of

BATCH = 4


class Answers:
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
        self.scores = unit(self.consolidated) @ unit(entries.descriptor).T


class CropGallery:
    """The gallery of a comparison: every entry is a candidate."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._stored = StoredTokens.of(features.cls, features.patches)

    def __len__(self) -> int:
        return len(self._features.cls)

    def search(self, cls: NDArray[np.float32], count: int) -> Candidates:
        """By cosine of [cls]."""
        return _nearest(cls, self._features.cls, count)

    def rank(self, descriptor: NDArray[np.float32], count: int) -> Candidates:
        """By cosine of descriptors."""
        return _nearest(descriptor, self._features.descriptor, count)

    def compare(self, descriptor: NDArray[np.float32], entries: NDArray[np.int64]) -> NDArray[np.float32]:
        """By cosine of descriptors."""
        cosines: NDArray[np.float32] = np.einsum(
            "bd,bcd->bc", unit(descriptor), unit(self._features.descriptor)[entries]
        )
        return cosines

    def tokens(self, entries: NDArray[np.int64]) -> Tokens:
        """As float16, as a gallery stores them."""
        found = self.stored(entries)
        return Tokens(found.cls, found.patches(range(len(entries))).astype(np.float16))

    def stored(self, entries: NDArray[np.int64]) -> StoredTokens:
        """Likewise."""
        return self._stored.take(entries)

    def entries(self, ids: Sequence[int]) -> list[Entry]:
        """Nobody has a name."""
        return [Entry(number, "", "", "", "") for number in ids]

    def refresh(self) -> bool:
        """Nothing ever changes."""
        return False


def _consolidate(bundle: Bundle, queries: Features, entries: Features) -> NDArray[np.float32]:
    settings = bundle.manifest.matching
    matcher = Matcher(bundle, settings, engine="onnxruntime")
    consolidator = Consolidator(bundle, engine="onnxruntime", temperature=settings.neighbour_temperature)
    gallery, answers = CropGallery(entries), []

    def find(rebuilt: NDArray[np.float32]) -> Neighbours:
        return neighbours_of(gallery.rank(rebuilt, settings.neighbours), gallery)

    for start in range(0, len(queries.cls), BATCH):
        part = slice(start, start + BATCH)
        asked = Features(queries.cls[part], queries.patches[part], queries.descriptor[part])
        nearest = matcher.candidates(asked, gallery)
        neighbours = matcher.refine(asked, nearest.entries, nearest.cosine, gallery)
        answers.append(consolidator.consolidate_again(asked, neighbours, settings.passes, find))
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
    cosine = unit(queries) @ unit(entries).T
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    return Candidates(order, np.take_along_axis(cosine, order, axis=1))


def _join(parts: Sequence[Features]) -> Features:
    return Features(
        cls=np.concatenate([part.cls for part in parts]),
        patches=np.concatenate([part.patches for part in parts]),
        descriptor=np.concatenate([part.descriptor for part in parts]),
    )


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale (..., D) vectors to length 1; zeros stay zeros."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.float32(1e-12)), np.float32)
