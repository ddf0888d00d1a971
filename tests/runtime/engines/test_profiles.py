"""Optimisation profiles: which shapes are built for, and which profile takes which shapes."""

import pytest

from runtime.bundle import Bundle
from runtime.engines.profiles import ShapePlan, profile_for
from runtime.errors import EngineError

PLAN = ShapePlan(batches=(1, 8), candidates=100, neighbours=10, patches=242)


def test_one_profile_a_batch() -> None:
    profiles = PLAN.profiles("query_encoder", {"crops": (-1, 256, 128, 3), "camera": (-1,)})
    assert profiles == (
        {"crops": ((1, 256, 128, 3),) * 3, "camera": ((1,),) * 3},
        {"crops": ((1, 256, 128, 3), (8, 256, 128, 3), (8, 256, 128, 3)), "camera": ((1,), (8,), (8,))},
    )


def test_the_matcher_takes_one_query_and_any_number_of_candidates() -> None:
    inputs = {"query_patches": (-1, 125, 768), "candidate_patches": (-1, -1, -1, 768)}
    (profile,) = PLAN.profiles("matcher", inputs)
    assert profile["candidate_patches"] == ((1, 1, 1, 768), (1, 100, 242, 768), (1, 100, 242, 768))
    assert profile["query_patches"] == ((1, 125, 768),) * 3


@pytest.mark.parametrize(("batch", "expected"), [(1, 0), (2, 1), (8, 1), (9, None)])
def test_the_smallest_profile_that_fits_is_chosen(batch: int, expected: int | None) -> None:
    profiles = PLAN.profiles("gallery_encoder", {"camera": (-1,)})
    assert profile_for(profiles, {"camera": (batch,)}) == expected


def test_another_rank_fits_no_profile() -> None:
    assert profile_for(PLAN.profiles("gallery_encoder", {"camera": (-1,)}), {"camera": (1, 1)}) is None


def test_the_decoder_is_built_for_the_queries_it_is_given() -> None:
    plan = ShapePlan((1, 8, 32), 100, 10, 242)
    assert [one["neighbour_mask"][2] for one in plan.profiles("decoder", {"neighbour_mask": (-1, -1)})] == [
        (1, 10),
        (8, 10),
    ]


def test_there_are_as_many_candidates_as_neighbours_need(tiny_bundle: Bundle) -> None:
    assert ShapePlan.of(tiny_bundle.manifest, (1,), candidates=5, neighbours=20).candidates == 20


def test_defaults_come_from_the_bundle(tiny_bundle: Bundle) -> None:
    matching = tiny_bundle.manifest.matching
    plan = ShapePlan.of(tiny_bundle.manifest, (8, 1, 8), neighbours=7)
    assert plan == ShapePlan((1, 8), matching.refine, 7, tiny_bundle.manifest.model.patches)


@pytest.mark.parametrize("batches", [(), (0,), (1, 5000)])
def test_senseless_batches_are_refused(batches: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="--batch"):
        ShapePlan(batches, 1, 1, 1)


@pytest.mark.parametrize(
    "inputs", [{"images": (-1, 3)}, {"crops": (1, 256, 128, 3)}, {"crops": (-1, -1, 128, 3)}], ids=str
)
def test_inputs_outside_the_contract_are_refused(inputs: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(EngineError, match="not part of a bundle's contract"):
        PLAN.profiles("gallery_encoder", inputs)
