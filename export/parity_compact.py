"""Proof of the compact matcher and decoder, on the bytes of the tokens that `export.parity_matching` makes.

The bytes are taken for what they stand for: the reference reads the same tokens, decoded. What a store loses is no
matter of the graphs; `benchmarks/tokens.py` measures it.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from export.graphs import SINKHORN_REGULARISATION, TINY, SinkhornWeights
from export.model import DecoderTokens, FPCModel
from export.parity import BATCHES, Comparison
from export.parity_matching import CANDIDATES, Memory
from runtime.bundle import GraphParity
from runtime.emd import CodedQuery, code_query, demand_of
from runtime.engines import Engine
from runtime.gallery.codecs import INT8, ZERO_CODE, TokenCodec, make_codec


def compare_compact_matcher(
    memories: dict[int, Memory], engine: Engine, iterations: int, weights: SinkhornWeights
) -> list[GraphParity]:
    """Compare the compact matcher with the paper's formula in float64, on the numbers that its bytes stand for."""
    row = Comparison("compact_matcher", "emd")
    for batch in BATCHES:
        query, candidates = memories[batch].query, memories[batch].candidates
        codec, records, _ = _coded(candidates)
        found, reference = [], []
        for one in query:
            unit = torch.nn.functional.normalize(one, dim=1)
            affinity = (torch.nn.functional.normalize(candidates[:, 0], dim=1) @ unit[1:].T).numpy()
            in_basis = unit.numpy() @ _basis(codec)
            coded = code_query(in_basis[1:], in_basis[0] if weights == "cls" else in_basis[1:].mean(axis=0))
            inputs: dict[str, NDArray[np.generic]] = {
                "query_codes": coded.codes,
                "query_mix": coded.mix,
                "candidate_codes": np.ascontiguousarray(records["codes"]),
                "candidate_steps": records["scales"].ravel() * np.float32(coded.step / SINKHORN_REGULARISATION),
            }
            mass = np.ones(len(records), np.float32)
            if weights == "cls":
                inputs["demand"], mass = demand_of(affinity)
            emd = np.asarray(engine.run(inputs)["emd"], np.float32)
            found.append(1 - (1 - emd) * mass)  # as `runtime.emd.CompactEmd`
            reference.append(_distance(coded, records, affinity.astype(np.float64), iterations, weights))
        row.add(np.stack(found), np.stack(reference))
    return [row.report()]


def compare_compact_decoder(
    model: FPCModel, memories: dict[int, Memory], engine: Engine, tokens: DecoderTokens
) -> list[GraphParity]:
    """Compare the compact decoder with the plain block on decoded tokens: all neighbours, some masked, and one."""
    row = Comparison("compact_decoder", "descriptor")
    for batch in BATCHES:
        query, candidates = memories[batch].query, memories[batch].candidates
        codec, records, decoded = _coded(candidates)
        for given, real in ((CANDIDATES, CANDIDATES), (CANDIDATES, 3), (1, 1)):
            cls = candidates[:given, 0].expand(batch, -1, -1)  # (B, K, D)
            memory = decoded[:given].expand(batch, -1, -1, -1)
            mask = np.zeros((batch, given), np.float32)
            mask[:, :real] = 1
            some = np.stack([records[:given]] * batch)
            inputs: dict[str, NDArray[np.generic]] = {
                "neighbour_cls": cls.contiguous().numpy(),
                "neighbour_codes": np.ascontiguousarray(some["codes"]),
                "neighbour_steps": (some["scales"] * some["norms"])[:, :, None],
                "neighbour_norms": np.ascontiguousarray(some["norms"])[:, :, None],
                "neighbour_mask": mask,
                "basis": _basis(codec),
            }
            asked = {"query_cls": query[:, 0], "query_patches": query[:, 1:]} if tokens == "query+gallery" else {}
            with torch.inference_mode():
                reference = model.consolidate(cls[:, :real], memory[:, :real], **asked)[1]
            answer = engine.run(inputs | {name: value.contiguous().numpy() for name, value in asked.items()})
            row.add(answer["descriptor"], reference.numpy())
    return [row.report()]


def _distance(
    query: CodedQuery,
    records: NDArray[np.void],
    affinity: NDArray[np.float64],
    iterations: int,
    weights: SinkhornWeights,
) -> NDArray[np.float64]:
    """(C,) distances as `export.reference` has them, of tokens that are taken as they are and not normalised again."""
    theirs = (records["codes"].astype(np.float64) - ZERO_CODE) * records["scales"][:, :, None]
    codes, step = query.codes.astype(np.float64), float(query.step)
    centre, mean = np.moveaxis(theirs @ (codes[:, -3:] * step) @ query.mix, 2, 0)  # (C, N) each
    similarity = theirs @ (codes[:, :-3] * step) + mean[:, :, None]  # (C, N, M)
    supply = np.maximum(centre, 0)
    demand = np.maximum(affinity if weights == "cls" else similarity.mean(axis=1), 0)
    supply, demand = (side / (side.sum(axis=1, keepdims=True) + 1e-7) for side in (supply, demand))
    kernel = np.exp((similarity - 1) / SINKHORN_REGULARISATION)
    column = np.ones_like(demand)
    for _ in range(iterations):
        row = supply / np.maximum(np.einsum("cnm,cm->cn", kernel, column), TINY)
        column = demand / np.maximum(np.einsum("cnm,cn->cm", kernel, row), TINY)
    distance: NDArray[np.float64] = 1 - np.einsum("cn,cnm,cm->c", row, kernel * similarity, column)
    return distance


def _coded(candidates: torch.Tensor) -> tuple[TokenCodec, NDArray[np.void], torch.Tensor]:
    """Code (C, 1 + N, D) token memory; return the codec, (C,) records and (C, N, D) decoded patches."""
    codec = make_codec(INT8, candidates.shape[2])
    records = codec.encode(candidates[:, 1:].numpy())
    return codec, records, torch.from_numpy(codec.decode([records[row, ...] for row in range(len(records))]))


def _basis(codec: TokenCodec) -> NDArray[np.float32]:
    if codec.basis is None:
        raise ValueError(f"codec {codec.name} has no basis")
    return codec.basis
