"""Counts multiply-adds in an exported graph, as the paper's table 4 does."""

import math

from onnx import ModelProto

from export.model import ModelConfig
from export.tracing import shapes_of


def count_linear(model: ModelProto) -> int:
    """Return the multiply-adds of one sample in layers with weights: Conv, and MatMul or Gemm with a constant operand.

    Products of two computed values (attention) are left out, as in the paper.
    """
    shapes = shapes_of(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type not in {"Conv", "MatMul", "Gemm"} or weights.isdisjoint(node.input):
            continue
        answers = math.prod(size for size in shapes[node.output[0]] if isinstance(size, int))  # per sample
        if node.op_type == "Conv":
            _, *kernel = shapes[node.input[1]]
            per_answer = math.prod(int(size) for size in kernel)
        else:
            per_answer = int(shapes[node.input[0]][-1])
        total += answers * per_answer
    return total


def count_as_published(query_encoder: ModelProto, config: ModelConfig) -> int:
    """Return the multiply-adds of the sparse encoder as the paper counts them: all blocks in full.

    The exported graph computes the [cls] row alone of the last block; the paper's figure has that block run on every
    surviving token, so the difference, one block for each surviving patch, is added to what the graph does.
    """
    surviving = next(value for value in query_encoder.graph.output if value.name == "kept")
    patches: int = surviving.type.tensor_type.shape.dim[1].dim_value
    width = config.embed_dim
    block = 4 * width * width + 2 * width * int(width * config.mlp_ratio)  # per token: q, k, v, projection and MLP
    return count_linear(query_encoder) + patches * block
