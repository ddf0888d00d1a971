"""INT8 graphs: what is quantised and how, and what each method makes of outliers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from calibration.int8 import METHODS, Method, collect_ranges, quantised_nodes, to_int8
from export.parity import proof_crops
from runtime.bundle import Bundle
from runtime.engines import open_engine

CROPS = proof_crops(64, 32, 16, seed=4)


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Bundle) -> ModelProto:
    return onnx.load(tiny_bundle.graph_path("query_encoder"))


@pytest.fixture(scope="module")
def quantised(encoder: ModelProto, tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    return to_int8(encoder, collect_ranges(encoder, CROPS, 3, "minmax", tmp_path_factory.mktemp("ranges")))


def test_products_over_tokens_are_quantised_and_attention_is_not(encoder: ModelProto, quantised: ModelProto) -> None:
    names = {node.name for node in quantised_nodes(encoder)}
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


def test_minmax_takes_the_largest_value_over_all_batches(encoder: ModelProto, tmp_path: Path) -> None:
    both = collect_ranges(encoder, CROPS, 3, "minmax", tmp_path)
    parts = [collect_ranges(encoder, part, 3, "minmax", tmp_path) for part in (CROPS[:5], CROPS[5:])]
    assert both == {name: pytest.approx(max(part[name] for part in parts), rel=1e-5) for name in both}


@pytest.mark.parametrize("method", ["percentile", pytest.param("entropy", marks=pytest.mark.slow)])
def test_histogram_methods_leave_out_outliers_only(encoder: ModelProto, tmp_path: Path, method: Method) -> None:
    most = collect_ranges(encoder, CROPS, 3, "minmax", tmp_path)
    found = collect_ranges(encoder, CROPS, 3, method, tmp_path)
    assert set(found) == set(most)
    assert all(0.02 * most[name] < limit <= 1.01 * most[name] for name, limit in found.items())
    assert sum(found.values()) < sum(most.values())


def test_every_method_is_named_once() -> None:
    assert METHODS == ("minmax", "entropy", "percentile")


def test_nothing_is_left_in_the_scratch_folder(encoder: ModelProto, tmp_path: Path) -> None:
    collect_ranges(encoder, CROPS[:4], 3, "minmax", tmp_path)
    assert not list(tmp_path.iterdir())
