"""A graph without its weights: as much work, to time float32 where only lower precision was delivered."""

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

LARGE = 4096
"""Elements from which a constant is replaced. Smaller ones are biases, scales and shapes."""


def write_stand_in(before: Path, after: Path) -> None:
    """Write the float32 graph at `before` without its large weights to `after`."""
    onnx.save(without_weights(onnx.load(before)), after)


def without_weights(model: ModelProto) -> ModelProto:
    """Return a copy whose large float constants are made by `ConstantOfShape`, which engines fold as they load it.

    Each gets the standard deviation of the weights that it stands for, so that values neither overflow nor vanish: a
    processor takes longer over denormal numbers.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    kept, nodes = [], []
    for tensor in copy.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < LARGE:
            kept.append(tensor)
            continue
        shape = f"{tensor.name}.shape"
        kept.append(numpy_helper.from_array(np.array(tensor.dims, np.int64), shape))
        deviation = np.array([numpy_helper.to_array(tensor).std()], np.float32)
        nodes.append(
            helper.make_node(
                "ConstantOfShape", [shape], [tensor.name], name=shape, value=numpy_helper.from_array(deviation)
            )
        )
    nodes.extend(copy.graph.node)
    del copy.graph.initializer[:], copy.graph.node[:]
    copy.graph.initializer.extend(kept)
    copy.graph.node.extend(nodes)
    onnx.checker.check_model(copy, full_check=True)
    return copy
