"""What an engine says of the inputs and outputs of its graph."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from runtime.engines import TensorSpec, open_engine
from tests.paths import YOLOX_NANO


def test_the_real_detector() -> None:
    engine = open_engine(YOLOX_NANO)
    assert engine.inputs == (TensorSpec("images", (1, 3, 416, 416), "float32"),)
    assert engine.outputs == (TensorSpec("output", (1, 3549, 85), "float32"),)
    assert str(engine.outputs[0]) == "output float32 (1, 3549, 85)"


def test_open_axes_and_other_types(tmp_path: Path) -> None:
    crops = helper.make_tensor_value_info("crops", TensorProto.UINT8, ["batch", 8, None, 3])
    camera = helper.make_tensor_value_info("camera", TensorProto.INT64, ["batch"])
    half = helper.make_tensor_value_info("half", TensorProto.FLOAT16, None)
    same = helper.make_tensor_value_info("same", TensorProto.INT64, ["batch"])
    nodes = [
        helper.make_node("Cast", ["crops"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Identity", ["camera"], ["same"]),
    ]
    graph = helper.make_graph(nodes, "types", [crops, camera], [half, same])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "types.onnx"
    )
    engine = open_engine(tmp_path / "types.onnx")
    assert engine.inputs == (
        TensorSpec("crops", (None, 8, None, 3), "uint8"),
        TensorSpec("camera", (None,), "int64"),
    )
    assert [spec.dtype for spec in engine.outputs] == ["float16", "int64"]
    assert engine.outputs[1].shape == (None,)
    assert str(engine.inputs[0]) == "crops uint8 (?, 8, ?, 3)"
