"""OpenVINO against ONNX Runtime on real graphs, and what it says of inputs that do not fit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.parity import proof_crops
from runtime.bundle import Bundle
from runtime.engines import TensorSpec, open_engine
from runtime.engines.ov import import_openvino
from runtime.errors import EngineError

HAS_BF16 = "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def inputs_of(batch: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    return {"crops": proof_crops(64, 32, batch, seed), "camera": np.arange(batch, dtype=np.int64) % 4}


def largest_difference(found: NDArray[np.generic], reference: NDArray[np.generic]) -> float:
    return float(np.abs(found.astype(np.float64) - reference.astype(np.float64)).max())


@pytest.mark.parametrize("graph", ["query_encoder", "gallery_encoder"])
def test_it_answers_as_onnx_runtime_whatever_batches_follow_one_another(tiny_bundle: Bundle, graph: str) -> None:
    path = tiny_bundle.folder / f"{graph}.onnx"
    mine, theirs = open_engine(path, "openvino", threads=1), open_engine(path, "onnxruntime", threads=1)
    for batch in (1, 5, 2, 1):
        inputs = inputs_of(batch, seed=batch)
        found, reference = mine.run(inputs), theirs.run(inputs)
        assert found.keys() == reference.keys()
        for name, answer in found.items():
            assert answer.dtype == reference[name].dtype
            assert largest_difference(answer, reference[name]) < 1e-4, f"{name} of a batch of {batch}"


def test_the_graphs_with_several_open_axes(tiny_bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    path = tiny_bundle.graph_path("decoder")
    mine, theirs = open_engine(path, "openvino"), open_engine(path, "onnxruntime")
    for batch, neighbours, patches in ((1, 3, 10), (2, 5, 1)):
        inputs: dict[str, NDArray[np.generic]] = {
            "neighbour_cls": rng.standard_normal((batch, neighbours, 64), np.float32),
            "neighbour_patches": rng.standard_normal((batch, neighbours, patches, 64), np.float32),
            "neighbour_mask": np.ones((batch, neighbours), np.float32),
        }
        found, reference = mine.run(inputs)["descriptor"], theirs.run(inputs)["descriptor"]
        assert largest_difference(found, reference) < 1e-4


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bfloat16")
def test_bfloat16_is_near_float32_but_not_the_same(tiny_bundle: Bundle) -> None:
    graph, inputs = tiny_bundle.graph_path("gallery_encoder"), inputs_of(4)
    short = open_engine(graph, "openvino-bf16").run(inputs)["descriptor"].astype(np.float64)
    full = open_engine(graph, "openvino").run(inputs)["descriptor"].astype(np.float64)
    cosine = (short * full).sum(1) / np.linalg.norm(short, axis=1) / np.linalg.norm(full, axis=1)
    assert cosine.min() > 0.99
    assert np.abs(short - full).max() > 1e-4


@pytest.mark.skipif(HAS_BF16, reason="this processor has bfloat16")
def test_a_processor_without_bfloat16_says_so(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="no bfloat16"):
        open_engine(tiny_bundle.graph_path("decoder"), "openvino-bf16")


def test_answers_are_not_overwritten_by_the_next_run(tiny_bundle: Bundle) -> None:
    engine = open_engine(tiny_bundle.graph_path("gallery_encoder"), "openvino")
    first = engine.run(inputs_of(2, seed=0))["descriptor"]
    kept = first.copy()
    engine.run(inputs_of(2, seed=1))
    assert np.array_equal(first, kept)


def test_it_describes_the_graph_as_onnx_runtime_does(tiny_bundle: Bundle) -> None:
    graph = tiny_bundle.graph_path("query_encoder")
    mine, theirs = open_engine(graph, "openvino"), open_engine(graph, "onnxruntime")
    assert mine.name == "openvino"
    assert (
        mine.inputs
        == theirs.inputs
        == (
            TensorSpec("crops", (None, 64, 32, 3), "uint8"),
            TensorSpec("camera", (None,), "int64"),
        )
    )
    assert mine.outputs == theirs.outputs


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"camera": None}, "camera", id="missing"),
        pytest.param({"crops": np.zeros((2, 64, 32, 3), np.float32)}, "crops", id="type"),
        pytest.param({"crops": np.zeros((2, 64, 16, 3), np.uint8)}, "crops", id="size"),
        pytest.param({"crops": np.zeros((64, 32, 3), np.uint8)}, "crops", id="rank"),
        pytest.param({"stray": np.zeros(2, np.int64)}, "stray", id="too many"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    tiny_bundle: Bundle, engine: str, change: dict[str, NDArray[np.generic] | None], message: str
) -> None:
    loaded = open_engine(tiny_bundle.graph_path("query_encoder"), engine)
    given = {name: value for name, value in (inputs_of(2) | change).items() if value is not None}
    with pytest.raises(EngineError, match=message):
        loaded.run(given)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, engine: str) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"\x08\x07not a graph" * 100)
    with pytest.raises(EngineError, match=r"noise\.onnx"):
        open_engine(tmp_path / "noise.onnx", engine)
    with pytest.raises(EngineError, match=r"missing\.onnx"):
        open_engine(tmp_path / "missing.onnx", engine)


def test_without_the_package_the_line_that_installs_it_is_named(tiny_bundle: Bundle) -> None:
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "from pathlib import Path; from runtime.engines import open_engine; from runtime.errors import FpcError\n"
        "try: open_engine(Path(sys.argv[1]), 'openvino')\n"
        "except FpcError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tiny_bundle.graph_path("decoder"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino is not installed: run  pip install 'fpc-deploy[openvino]'"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_nothing_is_reported_to_anybody(tiny_bundle: Bundle, tmp_path: Path, engine: str) -> None:
    """Left alone, both report: OpenVINO on import, from a fork; ONNX Runtime by way of a file in the home folder."""
    code = (
        "import sys, time\n"
        "watched = ('os.fork', 'socket.connect', 'socket.getaddrinfo', 'urllib.Request')\n"
        "sys.addaudithook(lambda event, _: print(event, flush=True) if event in watched else None)\n"
        "from pathlib import Path; from runtime.engines import open_engine\n"
        "open_engine(Path(sys.argv[1]), sys.argv[2])\n"
        "time.sleep(1.5)"  # reports go out beside
    )
    command = [sys.executable, "-c", code, str(tiny_bundle.graph_path("decoder")), engine]
    alone = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**alone, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
