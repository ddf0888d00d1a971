"""The shipped model in lower precision, on rendered people whom it never saw: what the gate says with its defaults."""

from pathlib import Path

import numpy as np
import pytest

from calibration.bundle import CalibrateOptions, calibrate_bundle
from calibration.crops import CalibrationSet, load_calibration_set
from calibration.derive import derive_bundle
from calibration.gate import Verdict, judge
from export.precision import convert_graph
from export.write import ExportOptions, export_bundle
from fpc_deploy.demo.run import CHECKPOINT, MATCHING
from fpc_deploy.rendering import DatasetPlan, render_dataset
from runtime.bundle import Bundle
from runtime.encoder import Encoder

pytestmark = pytest.mark.slow
PLAN = DatasetPlan(identities=64, cameras=2, seed=505, train_share=0, gallery_images=3)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_dataset(tmp_path_factory.mktemp("people") / "set", PLAN) / "bounding_box_test"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(CHECKPOINT, tmp_path_factory.mktemp("demo") / "fp32", ExportOptions(matching=MATCHING))


@pytest.fixture(scope="module")
def data(demo: Bundle, people: Path) -> CalibrationSet:
    size = demo.manifest.preprocessing
    return load_calibration_set(people, 64, size.height, size.width)


def test_int8_passes_the_gate_with_default_settings(demo: Bundle, people: Path, tmp_path: Path) -> None:
    bundle, verdict, _ = calibrate_bundle(demo, people, tmp_path / "int8", CalibrateOptions())
    found = verdict.agreement
    assert verdict.passed
    assert bundle.manifest.precision == "int8"
    assert found.top >= 0.9
    lost = [part.mean_ap[0] - part.mean_ap[1] for part in found.retrieval.values()]
    assert set(found.retrieval) == {"clear", "occluded"}
    assert np.mean(lost) <= 1
    assert all(part.mean_ap[0] > 30 for part in found.retrieval.values())


@pytest.fixture(scope="module")
def half(demo: Bundle, data: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    def compare(reference: Bundle, candidate: Bundle) -> Verdict:
        return judge(reference, candidate, data.held_out, data.gallery, data.labels)

    return derive_bundle(demo, tmp_path_factory.mktemp("half") / "fp16", "fp16", convert_graph, compare)[0]


def test_fp16_agrees_with_float32(demo: Bundle, half: Bundle, data: CalibrationSet) -> None:
    found = judge(demo, half, data.held_out, data.gallery, data.labels).agreement
    assert found.descriptor_cosine >= 0.9999
    assert found.consolidated_cosine >= 0.9999
    assert min(found.kept.values()) >= 0.99
    assert found.descriptor_cosine < 1  # it is another graph


@pytest.mark.parametrize("sparse", [True, False], ids=["query", "gallery"])
@pytest.mark.parametrize("kind", ["black", "white", "chessboard", "stripes", "noise"])
def test_fp16_answers_are_finite_on_extreme_crops(half: Bundle, kind: str, sparse: bool) -> None:
    size = half.manifest.preprocessing
    crop = np.zeros((size.height, size.width, 3), np.uint8)
    rows, columns = np.indices(crop.shape[:2])
    crop[:] = {
        "black": np.zeros_like(rows),
        "white": np.full_like(rows, 255),
        "chessboard": (rows + columns) % 2 * 255,
        "stripes": (rows // 8 + columns * 0) % 2 * 255,
        "noise": np.random.default_rng(0).integers(0, 2, rows.shape) * 255,
    }[kind][:, :, None]
    answer = Encoder(half, sparse=sparse, engine="onnxruntime").encode(np.stack([crop, 255 - crop]))
    for values in (answer.cls, answer.patches, answer.descriptor):
        assert np.isfinite(values).all()
