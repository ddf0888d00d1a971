"""TensorRT on a GPU. Building is tested elsewhere; running needs the device."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.parity import proof_crops
from runtime.bundle import Bundle, GraphName
from runtime.engines import open_engine
from runtime.engines.bundle_engines import build_engines, choose_target
from runtime.engines.cuda_device import current_device
from runtime.engines.engine_file import FOLDER
from runtime.engines.profiles import ShapePlan
from runtime.engines.providers import PROVIDERS, load_provider
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


@pytest.fixture(scope="module", params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    """A provider that builds for this GPU."""
    name = str(request.param)
    try:
        choose_target(load_provider(name), ())
    except FpcError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture(scope="module")
def built(tiny_bundle: Bundle, provider: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = Bundle.open(shutil.copytree(tiny_bundle.folder, tmp_path_factory.mktemp(provider) / "bundle"))
    loaded = load_provider(provider)
    build_engines(bundle, loaded, choose_target(loaded, ()), ShapePlan.of(bundle.manifest, (1, 4)))
    return bundle


def difference(found: dict[str, NDArray[np.generic]], reference: dict[str, NDArray[np.generic]]) -> float:
    """Largest difference of two answers of the same names and shapes."""
    assert found.keys() == reference.keys()
    assert all(answer.shape == reference[name].shape for name, answer in found.items())
    pairs = [(answer.astype(np.float64), reference[name].astype(np.float64)) for name, answer in found.items()]
    return max(float(np.abs(mine - theirs).max()) for mine, theirs in pairs)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("graph", ["query_encoder", "gallery_encoder"])
def test_encoders_answer_as_onnxruntime_also_beyond_the_profile(built: Bundle, provider: str, graph: GraphName) -> None:
    """One engine, another profile from batch to batch, at last in another thread; no product in TF32."""
    path = built.graph_path(graph)
    engine, reference = open_engine(path, provider), open_engine(path, "onnxruntime")
    for seed, batch in enumerate((1, 3, 4, 1, 11, 3)):
        inputs: dict[str, NDArray[np.generic]] = {
            "crops": proof_crops(64, 32, batch, seed),
            "camera": np.full(batch, 3, np.int64),
        }
        assert difference(*(without_order(one.run(inputs)) for one in (engine, reference))) < 1e-4
    with ThreadPoolExecutor(1) as pool:
        assert (
            difference(without_order(pool.submit(engine.run, inputs).result()), without_order(reference.run(inputs)))
            < 1e-4
        )


def without_order(answer: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """All that does not depend on the order of surviving patches."""
    return {name: answer[name] for name in ("cls", "descriptor")} if "kept" in answer else answer


def decoder_inputs(bundle: Bundle, batch: int, neighbours: int) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(batch)
    width, patches = bundle.manifest.model.embed_dim, bundle.manifest.model.patches
    return {
        "neighbour_cls": rng.standard_normal((batch, neighbours, width)).astype(np.float32),
        "neighbour_patches": rng.standard_normal((batch, neighbours, patches, width)).astype(np.float32),
        "neighbour_mask": np.ones((batch, neighbours), np.float32),
    }


def matcher_inputs(bundle: Bundle, batch: int, candidates: int) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(candidates)
    model = bundle.manifest.model
    shapes = {
        "query_cls": (batch, model.embed_dim),
        "query_patches": (batch, bundle.manifest.keep_schedule.kept[-1], model.embed_dim),
        "candidate_cls": (batch, candidates, model.embed_dim),
        "candidate_patches": (batch, candidates, model.patches, model.embed_dim),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.gpu
@needs_gpu
def test_matcher_and_decoder_answer_as_onnxruntime(built: Bundle, provider: str) -> None:
    for graph, make, few, many in (("matcher", matcher_inputs, 3, 20), ("decoder", decoder_inputs, 1, 5)):
        path = built.graph_path(graph)  # type: ignore[arg-type]
        engine, reference = open_engine(path, provider), open_engine(path, "onnxruntime")
        for batch, count in ((1, many), (5, few), (1, few)):
            inputs = make(built, batch, count)
            assert difference(engine.run(inputs), reference.run(inputs)) < 1e-4, graph


@pytest.mark.gpu
@needs_gpu
def test_shapes_outside_the_profile_are_an_error(built: Bundle, provider: str) -> None:
    engine = open_engine(built.graph_path("decoder"), provider)
    many = built.manifest.matching.neighbours + 1
    with pytest.raises(EngineError, match=r"was built for .* with --batch, --candidates, --neighbours"):
        engine.run(decoder_inputs(built, 1, many))


@pytest.mark.gpu
@needs_gpu
def test_an_engine_without_its_folder_is_refused(built: Bundle, provider: str, tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(built.folder, tmp_path / "bundle"))
    (bundle.folder / FOLDER).rename(bundle.folder / "elsewhere")
    with pytest.raises(EngineError, match="build it: fpc-deploy build"):
        open_engine(bundle.graph_path("decoder"), provider)
