"""INT8 graphs: what is quantised and how, and what each method makes of outliers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from calibration.int8 import least_error, quantise, quantised_products, to_int8
from calibration.ranges import METHODS, ROWS, Activation, Method, Scale, collect_activations
from export.parity import proof_crops
from fpc_deploy.commands.calibrate import MethodName
from runtime.bundle import Bundle
from runtime.engines import open_engine

CROPS = proof_crops(64, 32, 16, seed=4)


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Bundle) -> ModelProto:
    return onnx.load(tiny_bundle.graph_path("query_encoder"))


@pytest.fixture(scope="module")
def quantised(encoder: ModelProto, tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    return quantise(encoder, CROPS, 3, "error", tmp_path_factory.mktemp("ranges"))


def activations(
    model: ModelProto, method: Method, scratch: Path, crops: NDArray[np.uint8] = CROPS
) -> dict[str, Activation]:
    names = [product.activation for product in quantised_products(model)]
    return collect_activations(model, names, crops, 3, method, scratch)


def test_products_over_tokens_are_quantised_and_attention_is_not(encoder: ModelProto, quantised: ModelProto) -> None:
    names = {product.node.name for product in quantised_products(encoder)}
    assert len(names) == 3 * 4  # blocks 0 to 2: qkv, proj, fc1, fc2
    made_by = {name: node.op_type for node in quantised.graph.node for name in node.output}
    for node in quantised.graph.node:
        if node.op_type == "MatMul":
            fed = [made_by.get(name) == "DequantizeLinear" for name in node.input]
            assert fed == [node.name in names] * 2


def test_zero_points_are_zero_and_weights_have_a_scale_a_column(quantised: ModelProto) -> None:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    nodes = [node for node in quantised.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert nodes
    for node in nodes:
        zero = values[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    weights = [node for node in nodes if node.input[0] in values]
    assert len(weights) == 12
    for node in weights:
        weight = values[node.input[0]]
        assert weight.dtype == np.int8
        assert values[node.input[1]].shape == (weight.shape[1],)


def test_outputs_and_inputs_are_unchanged(encoder: ModelProto, quantised: ModelProto) -> None:
    assert list(quantised.graph.input) == list(encoder.graph.input)
    assert list(quantised.graph.output) == list(encoder.graph.output)


def test_answers_stay_close(encoder: ModelProto, quantised: ModelProto, tmp_path: Path) -> None:
    answers = []
    for number, model in enumerate((encoder, quantised)):
        onnx.save(model, tmp_path / f"{number}.onnx")
        engine = open_engine(tmp_path / f"{number}.onnx", "onnxruntime")
        answers.append(engine.run({"crops": CROPS, "camera": np.full(16, 3)})["descriptor"].astype(np.float64))
    norms = np.linalg.norm(answers[0], axis=1) * np.linalg.norm(answers[1], axis=1)
    cosine = (answers[0] * answers[1]).sum(axis=1) / norms
    assert 0.99 < cosine.mean() < 0.9999999  # close, and yet not the same graph


@pytest.mark.parametrize(
    ("low", "high", "offset"),
    [(-1.0, 1.0, 0), (-0.17, 5.0, 119), (0.0, 3.0, 128), (-2.0, 7.0, 0), (-3.0, 0.1, 0), (0.0, 0.0, 0)],
    ids=str,
)
def test_a_scale_reaches_both_ends_and_meets_zero(low: float, high: float, offset: int) -> None:
    scale = Scale.covering(low, high)
    assert scale.offset == offset
    values = np.array([low, 0, high], np.float32)
    levels = scale.levels(values)
    assert np.abs((levels + scale.offset) * scale.step - values).max() <= 0.501 * scale.step
    assert levels[1] + scale.offset == 0
    assert scale.step <= 1.01 * max(high - low if offset else 2 * max(high, -low), 1e-30) / 254


def test_the_range_is_chosen_by_the_error_of_the_product() -> None:
    """A channel of outliers: worth reaching if it is multiplied with something, and worth clipping if it is not."""
    rows = np.random.default_rng(0).normal(0, 1, (1024, 8)).astype(np.float32)
    rows[:, 0] *= 60
    seen = Activation(float(rows.min()), float(rows.max()), rows)
    weights = np.ones((8, 4), np.float32)
    reaching = least_error(seen, weights)
    weights[0] = 0
    clipping = least_error(seen, weights)
    assert clipping.step < 0.5 * reaching.step


def one_product(with_bias: bool, activation: str = "Relu") -> ModelProto:
    """`relu(x) W (+ b)`, its input one-sided."""
    weight = np.random.default_rng(1).normal(0, 1, (8, 4)).astype(np.float32)
    nodes = [
        helper.make_node(activation, ["x"], ["r"], "first"),
        helper.make_node("MatMul", ["r", "w"], ["p"], "product"),
    ]
    nodes.append(helper.make_node("Add" if with_bias else "Mul", ["p", "b"], ["y"], "last"))
    graph = helper.make_graph(
        nodes,
        "one product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3, 4])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.full((1, 1, 4), 0.5, np.float32), "b")],
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


@pytest.mark.parametrize("with_bias", [True, False])
def test_only_a_product_with_a_bias_is_shifted(with_bias: bool, tmp_path: Path) -> None:
    model = one_product(with_bias)
    scale = Scale.covering(0, 3)
    made = to_int8(model, {"r": scale})
    assert ("Sub" in {node.op_type for node in made.graph.node}) is with_bias
    x = np.random.default_rng(2).uniform(-1, 3, (5, 3, 8)).astype(np.float32)
    assert np.abs(answer(model, x, tmp_path) - answer(made, x, tmp_path)).max() < 0.15


def answer(model: ModelProto, x: NDArray[np.float32], folder: Path) -> NDArray[np.float32]:
    onnx.save(model, folder / "model.onnx")
    return np.asarray(open_engine(folder / "model.onnx", "onnxruntime").run({"x": x})["y"], np.float32)


def test_values_behind_a_gelu_are_shifted_by_whole_levels() -> None:
    made = to_int8(one_product(with_bias=True, activation="Gelu"), {"r": Scale.covering(-0.17, 5)})
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    (shift,) = [node for node in made.graph.node if node.op_type == "Sub"]
    (quantiser,) = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert (shift.input[0], quantiser.input[0]) == ("r", shift.output[0])
    assert not values[quantiser.input[2]].any()
    levels = float(values[shift.input[1]]) / float(values[quantiser.input[1]])
    assert levels == pytest.approx(119, abs=1e-3)


def test_biases_make_up_for_the_mean_error_of_a_product(tmp_path: Path) -> None:
    """A range that cuts off half of the values: every sum is off, but not on the mean."""
    model, scale = one_product(with_bias=True), Scale(0.01)  # reaches 1.27 of 3
    x = np.random.default_rng(2).uniform(-1, 3, (64, 3, 8)).astype(np.float32)
    rows = np.maximum(x, 0).reshape(-1, 8)
    graphs = (model, to_int8(model, {"r": scale}), to_int8(model, {"r": scale}, {"r": rows}))
    exact, plain, corrected = (answer(one, x, tmp_path) for one in graphs)
    assert np.abs((plain - exact).mean(axis=(0, 1))).max() > 0.3
    assert np.abs((corrected - exact).mean(axis=(0, 1))).max() < 1e-4
    assert np.abs(corrected - exact).max() > 0.3


def test_minmax_takes_the_extremes_over_all_batches(encoder: ModelProto, tmp_path: Path) -> None:
    both = activations(encoder, "minmax", tmp_path)
    parts = [activations(encoder, "minmax", tmp_path, part) for part in (CROPS[:5], CROPS[5:])]
    for name, found in both.items():
        assert found.low == pytest.approx(min(part[name].low for part in parts), rel=1e-4)
        assert found.high == pytest.approx(max(part[name].high for part in parts), rel=1e-4)
        assert found.low <= found.rows.min() <= found.rows.max() <= found.high
        assert len(found.rows) <= ROWS


@pytest.mark.parametrize("method", ["percentile", pytest.param("entropy", marks=pytest.mark.slow)])
def test_histogram_methods_leave_out_outliers_only(encoder: ModelProto, tmp_path: Path, method: Method) -> None:
    most = activations(encoder, "minmax", tmp_path)
    found = activations(encoder, method, tmp_path)
    assert set(found) == set(most)
    for name, seen in found.items():
        reached, largest = (max(-one.low, one.high) for one in (seen, most[name]))
        assert 0.02 * largest < reached <= 1.01 * largest
    assert sum(seen.high for seen in found.values()) < sum(seen.high for seen in most.values())


def test_every_method_is_named_once() -> None:
    assert METHODS == ("error", "minmax", "entropy", "percentile")
    assert {one.value for one in MethodName} == set(METHODS)


def test_nothing_is_left_in_the_scratch_folder(encoder: ModelProto, tmp_path: Path) -> None:
    activations(encoder, "minmax", tmp_path, CROPS[:4])
    assert not list(tmp_path.iterdir())
