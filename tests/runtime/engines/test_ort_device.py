"""ONNX Runtime with bound memory: on the CPU here, on a GPU where there is one."""

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.parity import proof_crops
from runtime.bundle import Bundle
from runtime.engines import open_engine
from runtime.engines.ort_device import BoundSession
from runtime.errors import EngineError
from runtime.machine import describe_machine

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
HAS_GPU = bool(describe_machine().gpu)


def inputs_of(batch: int, seed: int) -> dict[str, NDArray[np.generic]]:
    return {"crops": proof_crops(64, 32, batch, seed), "camera": np.arange(batch, dtype=np.int64) % 4}


def test_bound_memory_answers_as_unbound_whatever_shapes_follow_one_another(tiny_bundle: Bundle) -> None:
    graph = tiny_bundle.graph_path("query_encoder")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    bound, plain = BoundSession(session, "cpu"), open_engine(graph, "onnxruntime")
    for batch, seed in ((2, 0), (2, 1), (5, 2), (1, 3), (2, 4)):
        inputs = inputs_of(batch, seed)
        found, reference = bound.run(inputs), plain.run(inputs)
        assert found.keys() == reference.keys()
        for name, answer in found.items():
            assert np.array_equal(answer, reference[name]), (name, batch)


def test_answers_are_not_overwritten_by_the_next_run(tiny_bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(
        tiny_bundle.graph_path("gallery_encoder"), providers=["CPUExecutionProvider"]
    )
    bound = BoundSession(session, "cpu")
    first = bound.run(inputs_of(2, 0))["descriptor"]
    kept = first.copy()
    bound.run(inputs_of(2, 1))
    assert np.array_equal(first, kept)


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_missing_provider_names_the_install_line(tiny_bundle: Bundle, engine: str) -> None:
    with pytest.raises(EngineError, match=r"has no \w+ExecutionProvider: run  pip install 'fpc-deploy\[gpu\]'"):
        open_engine(tiny_bundle.graph_path("decoder"), engine)


def test_an_unknown_engine_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="choose one of auto, onnxruntime, openvino, "):
        open_engine(tiny_bundle.graph_path("decoder"), "tflite")


@pytest.mark.gpu
@pytest.mark.skipif(not (HAS_CUDA and HAS_GPU), reason="needs onnxruntime-gpu and an NVIDIA GPU")
@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_gpu_answers_as_the_cpu(tiny_bundle: Bundle, engine: str) -> None:
    """In float32: a product in TF32 is off by 1e-3."""
    graph = tiny_bundle.graph_path("query_encoder")
    gpu, cpu = open_engine(graph, engine), open_engine(graph, "onnxruntime")
    for seed, batch in enumerate((1, 8, 8, 3)):
        inputs = inputs_of(batch, seed)
        found, reference = gpu.run(inputs)["descriptor"], cpu.run(inputs)["descriptor"]
        assert np.abs(found.astype(np.float64) - reference.astype(np.float64)).max() < 1e-4


@pytest.mark.skipif(not HAS_CUDA or HAS_GPU, reason="needs onnxruntime-gpu on a machine without a GPU")
@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_provider_that_cannot_start_is_an_error_and_prints_nothing(
    tiny_bundle: Bundle, engine: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineError, match=r"ExecutionProvider|cannot load"):
        open_engine(tiny_bundle.graph_path("decoder"), engine)
    assert capfd.readouterr().out == ""
