"""Writes the graphs that only multiply: `python -m benchmarks.matmul_graphs`.

From those of one weight `bench` learns what an engine can multiply; by the product of rows `runtime.emd` codes queries.
A few hundred bytes each, so they lie beside what uses them: there is no `onnx` package there.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtime.bench.rates import LAYERS, WIDTH, graph_path
from runtime.emd import ROWS_PRODUCT

OPSET, IR_VERSION = 17, 8
"""Old enough for every engine that the runtime knows."""


def matmul_graph(precision: str) -> onnx.ModelProto:
    """LAYERS products of (rows, WIDTH) with one (WIDTH, WIDTH) weight; one number out, so that nothing is copied.

    The weight is made inside the graph, which an engine does once, when it loads it.
    """
    constants = {"shape": np.array([WIDTH, WIDTH], np.int64)}
    value = "x"
    if precision == "int8":
        constants |= {"zero": np.array(0, np.int8), "step": np.array(1 / WIDTH, np.float32)}
        constants["unit"] = np.array(1 / 64, np.float32)
        nodes = [_filled("codes", np.array([1], np.int8))]
        nodes.append(helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["weight"]))
    else:
        dtype = np.float16 if precision == "fp16" else np.float32
        nodes = [_filled("weight", np.array([1 / WIDTH], dtype))]
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", ["x"], ["narrow"], to=TensorProto.FLOAT16))
        value = "narrow"
    for layer in range(LAYERS):
        if precision == "int8":
            nodes.append(helper.make_node("QuantizeLinear", [value, "unit", "zero"], [f"codes{layer}"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"codes{layer}", "unit", "zero"], [f"values{layer}"]))
            value = f"values{layer}"
        nodes.append(helper.make_node("MatMul", [value, "weight"], [f"product{layer}"]))
        value = f"product{layer}"
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", [value], ["wide"], to=TensorProto.FLOAT))
        value = "wide"
    nodes.append(helper.make_node("ReduceMax", [value], ["largest"], keepdims=1))
    graph = helper.make_graph(
        nodes,
        f"matmul_{precision}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("largest", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def rows_product() -> onnx.ModelProto:
    """The product of the rows of (n, D) `a` with the rows of (m, D) `b`, (n, m)."""
    text = f"""<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}]>
    rows_product (float[n,D] a, float[m,D] b) => (float[n,m] product)
    {{
        turned = Transpose<perm = [1, 0]>(b)
        product = MatMul(a, turned)
    }}"""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def _filled(name: str, value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("ConstantOfShape", ["shape"], [name], value=numpy_helper.from_array(value))


def main() -> None:
    for precision in ("fp32", "fp16", "int8"):
        path: Path = graph_path(precision)
        onnx.save(matmul_graph(precision), path)
        print(f"{path.name}: {path.stat().st_size} bytes")
    onnx.save(rows_product(), ROWS_PRODUCT)
    print(f"{ROWS_PRODUCT.name}: {ROWS_PRODUCT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
