"""The gate: what is alike passes, what is crippled fails, and not a number never passes."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.agreement import Agreement, Retrieval
from calibration.answers import Answers
from calibration.derive import derive_bundle
from calibration.gate import (
    FP16_BOUNDS,
    INT8_BOUNDS,
    THRESHOLD,
    Verdict,
    broken_bounds,
    false_accepts,
    judge,
)
from calibration.int8 import quantised_products, to_int8
from calibration.occlusion import SHARES, occlude
from calibration.protocol import Labels, relate, score_ranking
from calibration.ranges import Scale
from runtime.bundle import Bundle
from runtime.errors import ParityError
from tests.calibration.conftest import smooth

CROPS = smooth(32, 7)
PERFECT = Agreement(
    queries=16,
    gallery=24,
    descriptor_cosine=1.0,
    worst_cosine=1.0,
    worst_query=0,
    consolidated_cosine=1.0,
    kept={"block 1": 1.0, "block 2": 1.0},
    top=1.0,
    score_shift=0.0,
    score_spread=0.0,
    score_deviation=0.2,
)


def loss(points: float) -> Retrieval:
    return Retrieval(64, (60.0, 60.0 - points), (70.0, 70.0), 0.4)


def judged(source: Bundle, candidate: Bundle) -> Verdict:
    return judge(source, candidate, CROPS[:8], CROPS[8:])


def test_the_same_graphs_agree_in_everything(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def copy(graph: str, before: Path, after: Path) -> None:
        shutil.copyfile(before, after)

    _, verdict = derive_bundle(tiny_bundle, tmp_path / "same", "int8", copy, judged)
    found = verdict.agreement
    assert verdict.passed
    assert found.descriptor_cosine == pytest.approx(1, abs=1e-6)
    assert (found.kept, found.top, found.score_shift, found.score_spread) == ({"block 1": 1, "block 2": 1}, 1, 0, 0)
    assert (found.queries, found.gallery) == (16, 24)


def test_a_graph_with_crippled_ranges_is_not_written(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def cripple(graph: str, before: Path, after: Path) -> None:
        if not graph.endswith("encoder"):
            shutil.copyfile(before, after)
            return
        model = onnx.load(before)
        names = {product.activation for product in quantised_products(model)}
        onnx.save(to_int8(model, dict.fromkeys(names, Scale.covering(-0.1, 0.1))), after)

    with pytest.raises(ParityError, match=r"int8 loses too much: .*descriptor cosine .*another --method"):
        derive_bundle(tiny_bundle, tmp_path / "out", "int8", cripple, judged)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"descriptor_cosine": 0.97}, "descriptor cosine 0.9700, at least 0.98"),
        ({"kept": {"block 1": 1.0, "block 2": 0.8}}, "patches kept alike at block 2 0.8000, at least 0.9"),
        ({"top": 0.89}, "top-10 overlap 0.8900, at least 0.9"),
        ({"score_shift": -0.03}, "false accepts 1.64 times as many, at most 1.5 (score shift -0.0300 and"),
        ({"score_spread": 0.08}, "false accepts 2.06 times as many"),
        ({"score_shift": 0.002, "score_deviation": 0.01}, "false accepts 1.92 times as many"),
        ({"descriptor_cosine": float("nan")}, "descriptor cosine nan"),
        ({"score_spread": float("nan")}, "false accepts nan"),
        ({"retrieval": {"clear": loss(0.8), "occluded": loss(1.3)}}, "1.05 points of mAP lost, at most 1"),
        ({"retrieval": {"clear": loss(float("nan"))}}, "nan points of mAP lost"),
    ],
    ids=str,
)
def test_each_bound_is_checked(change: dict[str, float], phrase: str) -> None:
    (failure,) = broken_bounds(replace(PERFECT, **change), INT8_BOUNDS)  # type: ignore[arg-type]
    assert failure.startswith(phrase)


@pytest.mark.parametrize(
    "change",
    [
        {"score_shift": 0.01, "score_spread": 0.04},
        {"retrieval": {"clear": loss(-3.0), "occluded": loss(1.9)}},
        {"score_deviation": 0.0},
    ],
    ids=str,
)
def test_what_keeps_the_bounds_passes(change: dict[str, float]) -> None:
    assert not list(broken_bounds(replace(PERFECT, **change), INT8_BOUNDS))  # type: ignore[arg-type]


def test_false_accepts_are_those_of_moved_and_widened_scores() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 0.2, 4_000_000)
    moved = scores + rng.normal(0.02, 0.06, len(scores))
    counted = (moved > 0.2 * THRESHOLD).sum() / (scores > 0.2 * THRESHOLD).sum()
    assert false_accepts(replace(PERFECT, score_shift=0.02, score_spread=0.06)) == pytest.approx(counted, rel=0.05)


def test_labels_measure_what_finding_people_is_worth(tiny_bundle: Bundle) -> None:
    people = smooth(24, 3)
    labels = Labels.of([(str(n), "a") for n in range(24)]), Labels.of([(str(n), "b") for n in range(24)])
    mates = np.roll(people, 1, axis=2)
    same = Bundle(tiny_bundle.folder, tiny_bundle.manifest.model_copy(update={"precision": "int8"}))
    found = judge(tiny_bundle, same, people, mates, labels)
    clear, occluded = found.agreement.retrieval["clear"], found.agreement.retrieval["occluded"]
    expected = score_ranking(Answers(tiny_bundle, people, mates).scores, relate(*labels))
    assert clear.mean_ap == pytest.approx((expected.mean_ap, expected.mean_ap))
    assert clear.rank1 == pytest.approx((expected.rank1, expected.rank1))
    assert (clear.queries, clear.standard_error) == (24, 0)
    assert occluded.mean_ap != clear.mean_ap
    assert f"clear (24 queries): mAP {clear.mean_ap[0]:.1f} -> {clear.mean_ap[1]:.1f}" in found.summary()


def test_bounds_are_the_project_s_promises() -> None:
    assert (FP16_BOUNDS.descriptor_cosine, FP16_BOUNDS.kept) == (0.9999, 0.99)
    assert (INT8_BOUNDS.top, INT8_BOUNDS.mean_ap) == (0.9, 1.0)


def test_a_float32_bundle_is_not_judged(tiny_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="proved against torch"):
        judged(tiny_bundle, tiny_bundle)


def test_occlusion_covers_a_side_and_leaves_the_rest() -> None:
    covered = occlude(CROPS)
    assert np.array_equal(covered, occlude(CROPS))
    changed = (covered != CROPS).any(axis=3).mean(axis=(1, 2))
    assert (changed <= SHARES[1] + 0.05).all()
    assert (changed >= SHARES[0] - 0.1).all()
