"""A graph without its weights: the same nodes, the same shapes, a fraction of the bytes."""

from pathlib import Path

import numpy as np
import onnx

from calibration.stand_in import LARGE, without_weights
from runtime.bundle import Bundle
from runtime.engines import open_engine


def test_the_stand_in_has_the_same_nodes_and_answers_in_the_same_shapes(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tiny_bundle.graph_path("query_encoder")
    before = onnx.load(path)
    after = without_weights(before)
    made = [node for node in after.graph.node if node.op_type == "ConstantOfShape"]
    assert [node for node in after.graph.node if node not in made] == list(before.graph.node)
    assert len(made) == sum(np.prod(tensor.dims) >= LARGE for tensor in before.graph.initializer) > 12
    assert after.ByteSize() < 0.3 * before.ByteSize()
    onnx.save(after, tmp_path / "stand_in.onnx")
    inputs = {"crops": np.zeros((2, 64, 32, 3), np.uint8), "camera": np.array([0, 3])}
    answers = [open_engine(one, "onnxruntime").run(inputs) for one in (path, tmp_path / "stand_in.onnx")]
    assert {name: value.shape for name, value in answers[0].items()} == {
        name: value.shape for name, value in answers[1].items()
    }
    assert all(np.isfinite(value).all() for value in answers[1].values())
