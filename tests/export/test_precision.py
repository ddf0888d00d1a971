"""FP16 graphs: what runs in half, how far they are from float32, and what the extremes do to them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from export.parity import proof_crops
from export.precision import to_fp16
from runtime.bundle import Bundle, GraphName
from runtime.engines import Engine, open_engine

GRAPHS: tuple[GraphName, ...] = ("query_encoder", "gallery_encoder", "matcher", "decoder")
Arrays = dict[str, NDArray[np.generic]]


@pytest.fixture(scope="module")
def engines(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[GraphName], tuple[Engine, Engine]]:
    folder = tmp_path_factory.mktemp("fp16")

    def pair(graph: GraphName) -> tuple[Engine, Engine]:
        path = folder / f"{graph}.onnx"
        onnx.save(to_fp16(onnx.load(tiny_bundle.graph_path(graph))), path)
        return open_engine(tiny_bundle.graph_path(graph), "onnxruntime"), open_engine(path, "onnxruntime")

    return pair


def element_types(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = inferred.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def least_cosine(found: NDArray[np.generic], reference: NDArray[np.generic]) -> float:
    a = found.reshape(len(found), -1).astype(np.float64)
    b = reference.reshape(len(reference), -1).astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def memory(bundle: Bundle, scale: float = 1.0) -> Arrays:
    model = bundle.manifest.model
    rng = np.random.default_rng(3)

    def draw(*shape: int) -> NDArray[np.float32]:
        return (scale * rng.standard_normal((*shape, model.embed_dim))).astype(np.float32)

    return {
        "neighbour_cls": draw(2, 4),
        "neighbour_patches": draw(2, 4, model.patches),
        "neighbour_mask": np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.float32),
    }


@pytest.mark.parametrize("graph", GRAPHS)
def test_inputs_and_outputs_keep_their_types(tiny_bundle: Bundle, graph: GraphName) -> None:
    before = onnx.load(tiny_bundle.graph_path(graph))
    after = to_fp16(before)
    for ours, theirs in zip(
        (*after.graph.input, *after.graph.output), (*before.graph.input, *before.graph.output), strict=True
    ):
        assert ours == theirs


@pytest.mark.parametrize("graph", ["query_encoder", "gallery_encoder", "decoder"])
def test_products_run_in_half_and_what_can_overflow_does_not(tiny_bundle: Bundle, graph: GraphName) -> None:
    model = to_fp16(onnx.load(tiny_bundle.graph_path(graph)))
    types = element_types(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    products = [
        node
        for node in model.graph.node
        if node.op_type in {"MatMul", "Gemm", "Conv"} and constants.intersection(node.input)
    ]
    assert products
    assert {types[name] for node in products for name in node.input} == {TensorProto.FLOAT16}
    guarded = {"LayerNormalization", "Softmax", "Exp", "ReduceSum", "ReduceMean", "ReduceMax", "TopK", "Div"}
    seen = [node for node in model.graph.node if node.op_type in guarded]
    assert seen
    assert TensorProto.FLOAT16 not in {types[node.input[0]] for node in seen}


def test_scores_that_choose_patches_are_float32(tiny_bundle: Bundle) -> None:
    model = to_fp16(onnx.load(tiny_bundle.graph_path("query_encoder")))
    types = element_types(model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    chosen = [node.input[0] for node in model.graph.node if node.op_type == "TopK"]
    assert len(chosen) == 2
    for value in chosen:
        node = made_by[value]
        while node.op_type != "MatMul":
            assert types[node.output[0]] == TensorProto.FLOAT
            node = made_by[node.input[0]]
        assert types[node.output[0]] == TensorProto.FLOAT


def test_the_matcher_stays_in_float32(tiny_bundle: Bundle) -> None:
    model = onnx.load(tiny_bundle.graph_path("matcher"))
    assert to_fp16(model) == model


def test_weights_take_half_the_room(tiny_bundle: Bundle) -> None:
    path = tiny_bundle.graph_path("gallery_encoder")
    assert to_fp16(onnx.load(path)).ByteSize() < 0.65 * path.stat().st_size


@pytest.mark.parametrize("graph", ["query_encoder", "gallery_encoder"])
def test_encoders_agree_with_float32(
    tiny_bundle: Bundle, engines: Callable[[GraphName], tuple[Engine, Engine]], graph: GraphName
) -> None:
    single, half = engines(graph)
    crops = proof_crops(64, 32, 32, seed=5)
    inputs: Arrays = {"crops": crops, "camera": np.arange(32, dtype=np.int64) % 4}
    reference, found = single.run(inputs), half.run(inputs)
    assert least_cosine(found["descriptor"], reference["descriptor"]) >= 0.9999
    if "kept" in found:
        shares = [np.intersect1d(a, b).size / a.size for a, b in zip(found["kept"], reference["kept"], strict=True)]
        assert np.mean(shares) >= 0.99


def test_decoder_agrees_with_float32_and_masks_padding(
    tiny_bundle: Bundle, engines: Callable[[GraphName], tuple[Engine, Engine]]
) -> None:
    single, half = engines("decoder")
    inputs = memory(tiny_bundle)
    found = half.run(inputs)["descriptor"]
    assert least_cosine(found, single.run(inputs)["descriptor"]) >= 0.9999
    cut = {name: value[1:, :2] for name, value in inputs.items()}
    assert np.abs(found[1:].astype(np.float32) - half.run(cut)["descriptor"].astype(np.float32)).max() < 2e-3


@pytest.mark.parametrize("value", [0, 255])
def test_blank_crops_give_finite_answers(engines: Callable[[GraphName], tuple[Engine, Engine]], value: int) -> None:
    inputs: Arrays = {"crops": np.full((2, 64, 32, 3), value, np.uint8), "camera": np.array([0, 3])}
    for name, answer in engines("query_encoder")[1].run(inputs).items():
        assert np.isfinite(answer).all(), name


@pytest.mark.parametrize("scale", [1e-6, 1e4, 1e8])
def test_tokens_scaled_to_the_extremes_give_finite_answers(
    tiny_bundle: Bundle, engines: Callable[[GraphName], tuple[Engine, Engine]], scale: float
) -> None:
    inputs = memory(tiny_bundle, scale)
    single, half = engines("decoder")
    answer = half.run(inputs)["descriptor"]
    assert np.isfinite(answer).all()
    assert least_cosine(answer, single.run(inputs)["descriptor"]) >= 0.999
    kept = tiny_bundle.manifest.keep_schedule.kept[-1]
    match = {
        "query_cls": inputs["neighbour_cls"][:, 0],
        "query_patches": inputs["neighbour_patches"][:, 0, :kept],
        "candidate_cls": inputs["neighbour_cls"],
        "candidate_patches": inputs["neighbour_patches"],
    }
    assert np.isfinite(engines("matcher")[1].run(match)["emd"]).all()


@pytest.mark.parametrize(("peak", "stays"), [(1e-30, True), (1e6, True), (65504.0, False), (0.0, False)])
def test_constants_that_half_cannot_hold_stay(peak: float, stays: bool) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.full(16, peak, np.float32))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert (to_fp16(model) == model) is stays


@pytest.mark.slow
def test_rescaled_weights_of_a_bundle_never_overflow(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """LayerNorm gains of 30 make every product large; half still answers without infinities."""
    model = onnx.load(tiny_bundle.graph_path("gallery_encoder"))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("norm1.weight"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(30 * onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(to_fp16(model), tmp_path / "loud.onnx")
    answer = open_engine(tmp_path / "loud.onnx", "onnxruntime").run(
        {"crops": proof_crops(64, 32, 4), "camera": np.zeros(4, np.int64)}
    )
    assert all(np.isfinite(value).all() for value in answer.values())
