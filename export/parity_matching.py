"""Proof of the matcher and the decoder: the second half of `export.parity`, on token memory of proof crops."""

from dataclasses import dataclass

import torch
from torch import Tensor

from export.graphs import SinkhornWeights
from export.model import DecoderTokens, FPCModel, normalise
from export.parity import BATCHES, Comparison, proof_crops
from export.reference import earth_movers_distance
from runtime.bundle import GraphParity
from runtime.engines import Engine

CANDIDATES = 5


@dataclass(frozen=True)
class Memory:
    """Token memory to match: B sparse queries, and dense candidates shared by all of them.

    Attributes:
        query: (B, 1 + M, D).
        candidates: (C, 1 + N, D).
    """

    query: Tensor
    candidates: Tensor


def make_memory(model: FPCModel, keep: dict[int, int], batch: int) -> Memory:
    """Encode proof crops: `batch` queries sparsely and `CANDIDATES` others densely."""
    config = model.config
    crops = torch.from_numpy(proof_crops(config.height, config.width, batch + CANDIDATES, seed=100 + batch))
    camera = torch.full((len(crops),), config.cameras)
    with torch.inference_mode():
        query = model.encode(normalise(crops[:batch]), camera[:batch], keep).tokens
        candidates = model.encode(normalise(crops[batch:]), camera[batch:], {}).tokens
    return Memory(query, candidates)


def compare_matcher(
    memories: dict[int, Memory], engine: Engine, iterations: int, weights: SinkhornWeights
) -> list[GraphParity]:
    """Compare the matcher with the paper's formula in float64, on all candidates and on the first alone."""
    row = Comparison("matcher", "emd")
    for batch in BATCHES:
        query, candidates = memories[batch].query, memories[batch].candidates
        for count in (CANDIDATES, 1):
            inputs = {
                "query_cls": query[:, 0],
                "query_patches": query[:, 1:],
                "candidate_cls": candidates[:count, 0].expand(batch, -1, -1),
                "candidate_patches": candidates[:count, 1:].expand(batch, -1, -1, -1),
            }
            answer = engine.run({name: value.contiguous().numpy() for name, value in inputs.items()})
            reference = [
                earth_movers_distance(q[0], q[1:], candidates[:count, 0], candidates[:count, 1:], iterations, weights)
                for q in query
            ]
            row.add(answer["emd"], torch.stack(reference).numpy())
    return [row.report()]


def compare_decoder(
    model: FPCModel, memories: dict[int, Memory], engine: Engine, tokens: DecoderTokens
) -> list[GraphParity]:
    """Compare the absorbed decoder with the plain block: all neighbours, some masked, one, and [cls] as only token."""
    row = Comparison("decoder", "descriptor")
    for batch in BATCHES:
        query, candidates = memories[batch].query, memories[batch].candidates
        for given, real, patches in ((5, 5, True), (5, 3, True), (1, 1, True), (4, 4, False)):
            cls = candidates[:given, 0].expand(batch, -1, -1)  # (B, K, D)
            memory = candidates[:given, 1:] if patches else candidates[:given, :1]
            memory = memory.expand(batch, -1, -1, -1)  # (B, K, N, D)
            mask = torch.zeros(batch, given)
            mask[:, :real] = 1
            inputs = {"neighbour_cls": cls, "neighbour_patches": memory, "neighbour_mask": mask}
            asked = {"query_cls": query[:, 0], "query_patches": query[:, 1:]} if tokens == "query+gallery" else {}
            with torch.inference_mode():
                reference = model.consolidate(cls[:, :real], memory[:, :real], **asked)[1]
            answer = engine.run({name: value.contiguous().numpy() for name, value in (inputs | asked).items()})
            row.add(answer["descriptor"], reference.numpy())
    return [row.report()]
