"""Engines built for real, by TensorRT-RTX on the CPU: every graph in every precision. No mock stands in for a build."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.bundle import Bundle, GraphName
from runtime.engines import bundle_engines
from runtime.engines.bundle_engines import GRAPHS, build_engines, build_graph, choose_target
from runtime.engines.cuda_device import Device
from runtime.engines.engine_build import ParsedGraph
from runtime.engines.engine_file import FOLDER, Target, read_header, read_payload
from runtime.engines.profiles import ShapePlan
from runtime.engines.providers import Provider, load_provider
from runtime.engines.trial import installed_engines
from runtime.errors import EngineError


@pytest.fixture(scope="module")
def rtx() -> Provider:
    return load_provider("tensorrt-rtx")


@pytest.fixture
def copy_of(bundle_in: Callable[[str], Bundle], tmp_path: Path) -> Callable[[str], Bundle]:
    """A bundle of this test's own, so that engines land nowhere else."""

    def copy(precision: str) -> Bundle:
        return Bundle.open(shutil.copytree(bundle_in(precision).folder, tmp_path / precision))

    return copy


def plan_of(bundle: Bundle, *batches: int) -> ShapePlan:
    return ShapePlan.of(bundle.manifest, batches)


@pytest.mark.parametrize(
    ("precision", "capability"),
    [
        pytest.param("fp32", "8.6", marks=pytest.mark.slow),
        pytest.param("fp32", "8.9", marks=pytest.mark.slow),
        pytest.param("fp16", "8.6", marks=pytest.mark.slow),
        pytest.param("fp16", "8.9", marks=pytest.mark.slow),
        pytest.param("int8", "8.6"),
        pytest.param("int8", "8.9", marks=pytest.mark.slow),
    ],
)
def test_every_graph_builds(copy_of: Callable[[str], Bundle], rtx: Provider, precision: str, capability: str) -> None:
    bundle = copy_of(precision)
    built = build_engines(bundle, rtx, choose_target(rtx, [capability]), plan_of(bundle, 4))
    assert [engine.graph for engine in built] == list(GRAPHS)
    for engine in built:
        assert engine.fresh
        header = read_header(engine.path)
        identity = header.identity
        assert read_payload(engine.path, header)
        assert identity.precision == precision
        assert identity.graph_sha256 == bundle.manifest.files[f"{engine.graph}.onnx"].sha256
        assert identity.target == Target(device=None, compute_capabilities=(capability,))
        assert identity.provider_version == rtx.version
        assert len(identity.profiles) == 1


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_parser_accepts_every_node(
    bundle_in: Callable[[str], Bundle], rtx: Provider, precision: str, graph: GraphName
) -> None:
    trt = rtx.module
    path = bundle_in(precision).graph_path(graph)
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.supports_model_v2(path.read_bytes())
    assert all(parser.is_subgraph_supported(number) for number in range(parser.num_subgraphs))
    judged = {node for number in range(parser.num_subgraphs) for node in parser.get_subgraph_nodes(number)}
    assert judged == set(range(len(onnx.load(path).graph.node)))


def test_what_is_there_is_not_built_again(copy_of: Callable[[str], Bundle], rtx: Provider) -> None:
    bundle, target = copy_of("fp32"), choose_target(rtx, ["8.6"])
    first = build_graph(bundle, "decoder", rtx, target, plan_of(bundle, 1))
    again = build_graph(bundle, "decoder", rtx, target, plan_of(bundle, 1))
    assert (first.fresh, again.fresh, first.path == again.path) == (True, False, True)
    other = build_graph(bundle, "decoder", rtx, target, plan_of(bundle, 1, 2))
    assert other.fresh
    assert other.path != first.path
    assert len(read_header(other.path).identity.profiles) == 2
    first.path.write_bytes(b"damaged")
    assert build_graph(bundle, "decoder", rtx, target, plan_of(bundle, 1)).fresh
    assert not list((bundle.folder / FOLDER).glob("*.part"))


def test_what_is_built_here_is_found_by_auto(copy_of: Callable[[str], Bundle], rtx: Provider) -> None:
    bundle = copy_of("fp32")
    assert not {"tensorrt", "tensorrt-rtx"} & set(installed_engines(bundle))
    build_graph(bundle, "decoder", rtx, choose_target(rtx, ["8.6"]), plan_of(bundle, 1))
    (bundle.folder / FOLDER / "other.engine").write_bytes(b"damaged")
    assert {"tensorrt", "tensorrt-rtx"} & set(installed_engines(bundle)) == {"tensorrt-rtx"}


def test_a_gpu_that_rtx_does_not_know_is_told(rtx: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_engines, "current_device", lambda: Device("NVIDIA H100", "9.0", None))
    with pytest.raises(EngineError, match=r"compute capability 9\.0: .* there is --provider tensorrt"):
        choose_target(rtx, ())


def test_progress_is_visible_and_complete(copy_of: Callable[[str], Bundle], rtx: Provider) -> None:
    seen: list[tuple[str, str | None, int, int]] = []
    bundle = copy_of("fp32")
    build_graph(
        bundle,
        "matcher",
        rtx,
        choose_target(rtx, ["8.6"]),
        plan_of(bundle, 1),
        lambda *step: seen.append(step),
    )
    outermost = [(done, steps) for _, parent, done, steps in seen if parent is None]
    assert outermost[0][0] == 0
    assert outermost[-1][0] == outermost[-1][1]
    assert len({phase for phase, *_ in seen}) > 3


def test_ctrl_c_ends_a_build(copy_of: Callable[[str], Bundle], rtx: Provider) -> None:
    def interrupt(phase: str, parent: str | None, done: int, steps: int) -> None:
        if done:
            raise KeyboardInterrupt

    bundle = copy_of("fp32")
    with pytest.raises(EngineError, match="cannot build"):
        build_graph(bundle, "decoder", rtx, choose_target(rtx, ["8.6"]), plan_of(bundle, 1), interrupt)
    assert not list((bundle.folder / FOLDER).glob("*.engine"))


def asymmetric(path: Path, out: Path) -> str:
    """Give the first activation of an INT8 graph a zero point of 3; return the name of its QuantizeLinear."""
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    shifted = numpy_helper.from_array(np.array(3, np.int8), "shifted")
    model.graph.initializer.append(shifted)
    for reader in model.graph.node:
        if reader.op_type in {"QuantizeLinear", "DequantizeLinear"} and reader.input[2] == node.input[2]:
            reader.input[2] = "shifted"
    onnx.save(model, out)
    return str(node.name)


def test_asymmetric_quantisation_is_refused_with_an_explanation(
    bundle_in: Callable[[str], Bundle], rtx: Provider, tmp_path: Path
) -> None:
    node = asymmetric(bundle_in("int8").graph_path("query_encoder"), tmp_path / "shifted.onnx")
    with pytest.raises(EngineError) as caught:
        ParsedGraph(tmp_path / "shifted.onnx", rtx)
    message = str(caught.value)
    assert node in message
    assert "its zero point is not 0, and TensorRT runs symmetric quantisation only" in message
    assert "fpc-deploy calibrate" in message
    assert "\n" not in message


def test_an_unknown_operator_is_named(rtx: Provider, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Teleport", ["x"], ["y"], name="beam", domain="elsewhere")],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "foreign.onnx")
    with pytest.raises(EngineError, match=r"node 0 beam \(Teleport\)"):
        ParsedGraph(tmp_path / "foreign.onnx", rtx)


def test_a_file_that_is_no_graph_is_refused(rtx: Provider, tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(EngineError, match="rejects"):
        ParsedGraph(tmp_path / "noise.onnx", rtx)


def test_unknown_capabilities_are_refused(rtx: Provider) -> None:
    with pytest.raises(EngineError, match=r"compute capability 8\.7: tensorrt-rtx .* builds for .*8\.6, 8\.9"):
        choose_target(rtx, ["8.7"])


def test_several_capabilities_share_an_engine(rtx: Provider) -> None:
    assert choose_target(rtx, ["12.0", "8.9", "8.6"]).compute_capabilities == ("8.6", "8.9", "12.0")


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(EngineError, match="choose one of tensorrt, tensorrt-rtx"):
        load_provider("tensorrt-lite")
