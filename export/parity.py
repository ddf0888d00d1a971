"""Proof that exported graphs answer as the torch model does, before a bundle is written.

Every graph runs in ONNX Runtime on several batch sizes and is compared with the plain form in torch. Pruning may choose
differently where two patches are attended to equally; such ties are recognised by the attention they got and forgiven.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from export.model import Encoded, FPCModel, normalise
from runtime.bundle import GraphParity
from runtime.engines import Engine
from runtime.errors import ParityError

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest magnitude of the output or to 1; float32 stays near 5e-6."""
MIN_COSINE = 0.99999
TIE = 1e-5
"""Two patches tie if their attention differs by less than this share of the larger."""
BATCHES = (1, 3, 2)
"""Batch sizes tried: 1, one that differs from the traced one, and the traced one (2)."""

Array = NDArray[np.generic]


@dataclass
class Comparison:
    """Differences of one output of one graph, gathered over batches."""

    graph: str
    output: str
    batches: list[int] = field(default_factory=list)
    max_abs: float = 0.0
    scale: float = 1.0
    min_cosine: float = 1.0
    worst_sample: str = "none"

    def add(self, found: Array, reference: Array, batch: int | None = None, first_sample: int = 0) -> None:
        """Compare (n, ...) `found` with (n, ...) `reference`: the samples from `first_sample` on of a batch."""
        if found.shape != reference.shape:
            raise ParityError(f"{self.graph} answers {self.output} {found.shape}, the torch model {reference.shape}")
        count = len(found)
        batch = batch or count
        mine = found.reshape(count, -1).astype(np.float64)
        theirs = reference.reshape(count, -1).astype(np.float64)
        if not np.isfinite(mine).all():
            raise ParityError(f"{self.graph} answers {self.output} with NaN or infinity in a batch of {batch}")
        difference = np.abs(mine - theirs).max(axis=1)
        norms = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
        cosine = (mine * theirs).sum(axis=1) / np.maximum(norms, 1e-30)
        if self.worst_sample == "none" or difference.max() > self.max_abs:
            self.worst_sample = f"batch of {batch}, sample {first_sample + int(difference.argmax())}"
        self.batches.append(batch)
        self.max_abs = max(self.max_abs, float(difference.max()))
        self.scale = max(self.scale, float(np.abs(theirs).max()))
        self.min_cosine = min(self.min_cosine, float(cosine.min()))

    def report(self) -> GraphParity:
        """Return the record for `bundle.json`."""
        return GraphParity(
            graph=self.graph,
            output=self.output,
            batches=tuple(dict.fromkeys(self.batches)),
            max_abs=self.max_abs,
            tolerance=TOLERANCE * self.scale,
            min_cosine=self.min_cosine,
            worst_sample=self.worst_sample,
        )


def demand_parity(reports: Iterable[GraphParity]) -> None:
    """Raise ParityError, naming output and worst sample, if any report is out of tolerance."""
    for report in reports:
        # a distance per candidate is no direction: its cosine says nothing
        turned = report.output != "emd" and report.min_cosine < MIN_COSINE
        if report.max_abs > report.tolerance or turned:
            raise ParityError(
                f"{report.graph} differs from the torch model in {report.output}: max-abs {report.max_abs:.2e} "
                f"(allowed {report.tolerance:.2e}), cosine {report.min_cosine:.6f} (at least {MIN_COSINE}), "
                f"worst: {report.worst_sample}; no bundle was written"
            )


def proof_crops(height: int, width: int, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return (count, height, width, 3) uint8 crops of blocky random texture, some half covered by one colour."""
    rng = np.random.default_rng([seed, height, width])
    crops = []
    for number in range(count):
        coarse = rng.integers(0, 256, (8, 4, 3))
        tile = np.kron(coarse, np.ones((-(-height // 8), -(-width // 4), 1)))[:height, :width]
        crop = 0.7 * tile + 0.3 * rng.integers(0, 256, (height, width, 3))
        if number % 2:
            crop[height // 2 :] = rng.integers(0, 256, 3)
        crops.append(crop)
    return np.stack(crops).clip(0, 255).astype(np.uint8)


def compare_encoder(
    name: str, model: FPCModel, keep: dict[int, int], engine: Engine, pruning_outputs: Sequence[str]
) -> tuple[list[GraphParity], dict[str, float]]:
    """Compare an encoder graph with the torch model.

    Args:
        name: of the graph, for the report.
        model: the reference.
        keep: {block: patches that survive}.
        engine: the graph, answering also with the values named in `pruning_outputs`.
        pruning_outputs: per pruning block, the value that holds its top-k indices.

    Returns:
        A report per output, and {"block 3": least share of patches chosen alike over all samples, ...}.
    """
    rows = {output: Comparison(name, output) for output in ("cls", "patches", "descriptor")}
    overlap = {f"block {block}": 1.0 for block in keep}
    for batch in BATCHES:
        crops = proof_crops(model.config.height, model.config.width, batch, seed=batch)
        camera = np.arange(batch, dtype=np.int64) % (model.config.cameras + 1)
        camera[-1] = model.config.cameras  # the unknown camera is always among them
        answer = engine.run({"crops": crops, "camera": camera})
        with torch.inference_mode():
            encoded = model.encode(normalise(torch.from_numpy(crops)), torch.from_numpy(camera), keep)
            descriptor = model.head(encoded.tokens)[1]
        chosen = {block: answer[output].astype(np.int64) for block, output in zip(keep, pruning_outputs, strict=True)}
        for block, share in _kept_overlap(name, encoded, chosen).items():
            overlap[f"block {block}"] = min(overlap[f"block {block}"], share)
        rows["cls"].add(answer["cls"], encoded.tokens[:, 0].numpy())
        rows["descriptor"].add(answer["descriptor"], descriptor.numpy())
        kept = answer.get("kept", encoded.kept.numpy())
        for sample in range(batch):
            _compare_patches(rows["patches"], answer["patches"], kept, encoded, sample)
    return [row.report() for row in rows.values()], overlap


def _compare_patches(row: Comparison, patches: Array, kept: Array, encoded: Encoded, sample: int) -> None:
    """Compare the patches that both sides kept, place by place."""
    reference = encoded.kept[sample].numpy()
    _, here, there = np.intersect1d(kept[sample], reference, return_indices=True)
    row.add(patches[sample, here][None], encoded.tokens[sample, 1:].numpy()[there][None], len(kept), sample)


def _kept_overlap(name: str, encoded: Encoded, chosen: dict[int, NDArray[np.int64]]) -> dict[int, float]:
    """Return {block: least share of patches chosen alike}, raising where a difference is no tie."""
    shares: dict[int, float] = {}
    places = theirs = None  # grid places alive before the block, in the order of either side
    for block, index in chosen.items():
        reference, attention = encoded.kept_at[block].numpy(), encoded.attention_at[block].numpy()
        if places is None or theirs is None:
            places = theirs = np.tile(np.arange(attention.shape[1]), (len(index), 1))
        before = theirs
        places, theirs = np.take_along_axis(places, index, 1), np.take_along_axis(theirs, reference, 1)
        shares[block] = 1.0
        for sample in range(len(index)):
            missing = np.setdiff1d(theirs[sample], places[sample])
            shares[block] = min(shares[block], 1 - len(missing) / theirs.shape[1])
            weight = attention[sample]
            least = weight[reference[sample]].min()
            clear = [place for place in missing if weight[before[sample] == place][0] > least * (1 + TIE)]
            if clear:
                raise ParityError(
                    f"{name} prunes other patches than the torch model at block {block}, sample {sample} of "
                    f"{len(index)}: grid places {clear[:5]} are no ties; no bundle was written"
                )
    return shares


def pruning_values(model: ModelProto) -> list[str]:
    """Return the names of the index outputs of all TopK nodes, in graph order: one per pruning block."""
    return [node.output[1] for node in model.graph.node if node.op_type == "TopK"]
