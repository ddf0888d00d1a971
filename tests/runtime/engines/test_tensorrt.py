"""TensorRT on a GPU. Building is tested elsewhere; running needs the device."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.parity import proof_crops
from runtime.bundle import Bundle
from runtime.engines import open_engine
from runtime.engines.bundle_engines import build_engines, choose_target
from runtime.engines.cuda_device import current_device
from runtime.engines.engine_file import FOLDER
from runtime.engines.profiles import ShapePlan
from runtime.engines.providers import load_provider
from runtime.errors import EngineError, FpcError


def reason_without_gpu() -> str:
    try:
        current_device()
    except FpcError as error:
        return str(error)
    return ""


NO_GPU = reason_without_gpu()
needs_gpu = pytest.mark.skipif(bool(NO_GPU), reason=NO_GPU or "there is a GPU")


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
@pytest.mark.parametrize("provider", ["tensorrt-rtx"])
def test_without_a_gpu_the_engine_says_what_is_missing(tiny_bundle: Bundle, provider: str) -> None:
    with pytest.raises(FpcError, match=r"pycuda|NVIDIA"):
        open_engine(tiny_bundle.graph_path("decoder"), provider)


@pytest.fixture
def built(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    bundle = Bundle.open(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle"))
    provider = load_provider("tensorrt-rtx")
    build_engines(bundle, provider, choose_target(provider, ()), ShapePlan.of(bundle.manifest, (1, 4)))
    return bundle


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("batch", [1, 3, 4, 11])
def test_answers_as_onnxruntime_also_beyond_the_profile(built: Bundle, batch: int) -> None:
    graph = built.graph_path("gallery_encoder")
    inputs: dict[str, NDArray[np.generic]] = {
        "crops": proof_crops(64, 32, batch),
        "camera": np.full(batch, 3, np.int64),
    }
    found = open_engine(graph, "tensorrt-rtx").run(inputs)
    reference = open_engine(graph, "onnxruntime").run(inputs)
    for name, answer in found.items():
        assert answer.shape == reference[name].shape
        assert np.abs(answer.astype(np.float64) - reference[name].astype(np.float64)).max() < 1e-2


@pytest.mark.gpu
@needs_gpu
def test_shapes_outside_the_profile_are_an_error(built: Bundle) -> None:
    engine = open_engine(built.graph_path("decoder"), "tensorrt-rtx")
    width, patches = built.manifest.model.embed_dim, built.manifest.model.patches
    many = built.manifest.matching.neighbours + 1
    inputs = {
        "neighbour_cls": np.zeros((1, many, width), np.float32),
        "neighbour_patches": np.zeros((1, many, patches, width), np.float32),
        "neighbour_mask": np.ones((1, many), np.float32),
    }
    with pytest.raises(EngineError, match=r"was built for .* with --batch, --candidates, --neighbours"):
        engine.run(inputs)


@pytest.mark.gpu
@needs_gpu
def test_an_engine_without_its_folder_is_refused(built: Bundle) -> None:
    (built.folder / FOLDER).rename(built.folder / "elsewhere")
    with pytest.raises(EngineError, match="build it: fpc-deploy build"):
        open_engine(built.graph_path("decoder"), "tensorrt-rtx")
