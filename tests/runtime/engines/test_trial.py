"""Engines are timed and compared on real crops before one is chosen."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from calibration.gate import FP16_BOUNDS
from runtime.bundle import Bundle
from runtime.engines import trial
from runtime.engines.protocol import Array
from runtime.engines.trial import (
    DESCRIPTOR_COSINE,
    TOP_OVERLAP,
    Runner,
    agreement,
    least_cosine,
    probe_crops,
    try_engines,
)


def shaken(vectors: Mapping[int, Array], spread: float, rng: np.random.Generator) -> dict[int, Array]:
    return {number: vector.astype(np.float64) + spread * rng.standard_normal(64) for number, vector in vectors.items()}


def test_the_bounds_are_those_of_fp16() -> None:
    assert (FP16_BOUNDS.descriptor_cosine, FP16_BOUNDS.top) == (DESCRIPTOR_COSINE, TOP_OVERLAP)


def test_the_crops_come_with_the_runtime_in_the_size_of_the_bundle(tiny_bundle: Bundle) -> None:
    crops = probe_crops(tiny_bundle)
    assert len(crops) == 24
    assert {crop.shape for crop in crops} == {(64, 32, 3)}
    assert len({crop.tobytes() for crop in crops}) == 24
    assert sum(path.stat().st_size for path in Path(trial.PROBE_FOLDER).iterdir()) < 100_000


def test_agreement_of_answers_that_are_the_same_moved_and_broken() -> None:
    rng = np.random.default_rng(0)
    descriptors = dict(enumerate(rng.standard_normal((24, 64)).astype(np.float32)))
    same = agreement(descriptors, descriptors)
    assert same.holds
    assert (same.crops, same.top) == (24, 1.0)
    moved = agreement(shaken(descriptors, 0.1, rng), descriptors)
    assert 0.9 < moved.descriptor_cosine < DESCRIPTOR_COSINE
    assert not moved.holds
    assert not agreement(dict.fromkeys(descriptors, np.full(64, np.nan, np.float32)), descriptors).holds
    few = agreement({number: descriptors[number] for number in (3, 8, 9, 20, 22)}, descriptors)
    assert few.descriptor_cosine > 0.999
    assert not few.holds


def test_another_order_alone_is_refused() -> None:
    """Descriptors that all lie close together change their order long before their direction."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal(64)
    descriptors = shaken(dict.fromkeys(range(24), common), 0.05, rng)
    found = agreement(shaken(descriptors, 0.005, rng), descriptors)
    assert found.descriptor_cosine > DESCRIPTOR_COSINE
    assert found.top < TOP_OVERLAP
    assert not found.holds


@pytest.mark.parametrize(
    ("measured", "least"),
    [
        pytest.param(None, 0.9999, id="float32, or not measured"),
        pytest.param(0.99999, 0.9999, id="fp16"),
        pytest.param(0.9995, 0.9995, id="int8: as far as the precision itself moved them"),
        pytest.param(0.97, 0.999, id="written in spite of a loss"),
    ],
)
def test_an_engine_may_move_answers_no_further_than_the_precision_did(
    tiny_bundle: Bundle, measured: float | None, least: float
) -> None:
    manifest = tiny_bundle.manifest.model_copy(update={"descriptor_cosine": measured})
    assert least_cosine(Bundle(tiny_bundle.folder, manifest)) == least
    rng = np.random.default_rng(0)
    descriptors = dict(enumerate(rng.standard_normal((24, 64)).astype(np.float32)))
    found = agreement(shaken(descriptors, 0.025, rng), descriptors, least)
    assert 0.9995 < found.descriptor_cosine < 0.9999
    assert found.top >= TOP_OVERLAP
    assert found.holds == (least < found.descriptor_cosine)


def test_a_small_model_is_left_to_the_reference(tiny_bundle: Bundle) -> None:
    found = try_engines(tiny_bundle)
    assert found.engine == "onnxruntime"
    assert all(label.startswith("onnxruntime x") for label in found.milliseconds)
    assert found.refused == {}
    assert found.complete


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that finds no model too small and has all the time it needs."""
    monkeypatch.setattr(trial, "FAST_ENOUGH_MS", 0.0)
    monkeypatch.setattr(trial, "BUDGET_S", 600.0)


@pytest.mark.usefixtures("eager")
def test_what_is_installed_is_tried_and_the_choice_is_the_fastest_that_holds(tiny_bundle: Bundle) -> None:
    found = try_engines(tiny_bundle, threads=1)
    assert "onnxruntime x1" in found.milliseconds
    assert found.milliseconds.keys() & {"openvino x1", "openvino-bf16 x1"}
    assert found.complete
    best = found.milliseconds[f"{found.engine} x{found.threads}"]
    for label, ms in found.milliseconds.items():
        engine = label.split()[0]
        assert engine in found.refused or best <= ms / trial.CLEAR_GAIN, (label, found)


@pytest.mark.usefixtures("eager")
def test_an_engine_that_moves_the_answers_is_refused_however_fast(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "installed_engines", lambda _: ["openvino"])
    for bound in ("CLEAR_GAIN", "HOPELESS"):
        monkeypatch.setattr(trial, bound, 1e9)  # any speed counts as faster
    assert try_engines(tiny_bundle, threads=1).engine == "openvino"
    monkeypatch.setattr(trial, "DESCRIPTOR_COSINE", 1.1)  # what no engine keeps
    found = try_engines(tiny_bundle, threads=1)
    assert found.engine == "onnxruntime"
    assert "moves the answers: descriptor cosine" in found.refused["openvino"]


@pytest.mark.usefixtures("eager")
def test_when_time_runs_out_the_reference_stays_and_the_trial_says_it_is_not_complete(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "PATIENCE_S", 0.0)
    found = try_engines(tiny_bundle)
    assert found.engine == "onnxruntime"
    assert found.refused["openvino"] == trial.NO_TIME
    assert not found.complete


@pytest.mark.usefixtures("eager")
def test_an_engine_that_does_not_load_is_passed_over(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "installed_engines", lambda _: ["onnxruntime-cuda", "tensorrt"])
    found = try_engines(tiny_bundle, threads=1)
    assert found.engine == "onnxruntime"
    assert found.refused.keys() == {"onnxruntime-cuda", "tensorrt"}


def test_a_runner_keeps_what_it_took_and_said(tiny_bundle: Bundle) -> None:
    runner = Runner(tiny_bundle, "onnxruntime", 1)
    crops = probe_crops(tiny_bundle)
    runner.warm_up(crops[0])
    assert runner.seconds == []
    for number, crop in enumerate(crops[:3]):
        runner.run(number, crop)
    assert runner.label == "onnxruntime x1"
    assert len(runner.seconds) == len(runner.descriptors) == 3
    assert runner.milliseconds > 0
