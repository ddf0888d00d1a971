"""The parts of training, each against its plain form."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from export.model import FPCModel
from fpc_deploy.training.augment import Augmentation, hide_cameras
from fpc_deploy.training.batches import Batches
from fpc_deploy.training.images import ImageSet
from fpc_deploy.training.memory import TokenMemory, encode_images
from fpc_deploy.training.objective import Objective
from fpc_deploy.training.optimisation import create_optimizer, create_schedule
from fpc_deploy.training.phases import EncoderPhase
from fpc_deploy.training.recipe import Recipe, recipe_from
from fpc_deploy.training.rows import cls_row
from fpc_deploy.training.score import consolidate, rank
from fpc_deploy.training.seeding import seed_epoch
from runtime.errors import CheckpointError, SourceError
from tests.fpc_deploy.training.conftest import CONFIG, FLOAT32, RECIPE


@pytest.fixture
def model() -> FPCModel:
    torch.manual_seed(0)
    return FPCModel(replace(CONFIG, cameras=2)).eval()


def image_set(identities: list[int], cameras: list[int]) -> ImageSet:
    crops = torch.randint(0, 256, (len(identities), 32, 16, 3), dtype=torch.uint8)
    people = tuple(str(number) for number in range(max(identities) + 1))
    labels = tuple(f"c{camera}" for camera in cameras)
    return ImageSet(crops, torch.tensor(identities), torch.tensor(cameras), people, ("c0", "c1"), labels)


def test_the_cls_row_is_that_of_the_whole_block(model: FPCModel) -> None:
    tokens = torch.randn(3, 9, 32, requires_grad=True)

    before, after = cls_row(model.head, tokens)
    expected_before, expected_after = model.head(tokens)

    torch.testing.assert_close(before, expected_before)
    torch.testing.assert_close(after, expected_after)
    (gradient,) = torch.autograd.grad(before.square().sum(), tokens, retain_graph=True)
    (expected,) = torch.autograd.grad(expected_before.square().sum(), tokens)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("included", ["gallery", "query+gallery"])
def test_memory_feeds_the_decoder_as_the_model_does(model: FPCModel, included: Any) -> None:
    tokens = torch.randn(7, 9, 32).half()
    memory, query = TokenMemory(tokens, torch.empty(0), torch.empty(0)), torch.randn(2, 6, 32)
    places = torch.tensor([[0, 3, 5], [6, 1, 2]])
    near = tokens[places].float()
    own = (query[:, 0], query[:, 1:]) if included == "query+gallery" else (None, None)

    with torch.no_grad():
        rebuilt = cls_row(model.decoder, memory.gather(query, places, included))[1]  # type: ignore[arg-type]
        expected = model.consolidate(near[:, :, 0], near[:, :, 1:], *own)[1]

    torch.testing.assert_close(rebuilt, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_nearest_leaves_the_query_itself_out(alpha: float) -> None:
    tokens = torch.randn(8, 5, 32)
    memory = TokenMemory(tokens.half(), torch.empty(0), torch.empty(0))
    recipe = replace(RECIPE, neighbours=3, alpha=alpha)

    found = memory.nearest(tokens, recipe)
    others = memory.nearest(tokens, recipe, leave_out=torch.arange(8))

    assert found[:, 0].tolist() == list(range(8))
    assert not (others == torch.arange(8).unsqueeze(1)).any()


def test_more_neighbours_than_images(model: FPCModel) -> None:
    images = image_set([0, 0, 1], [0, 1, 0])
    memory = encode_images(model, images, {}, FLOAT32)

    assert consolidate(model, memory, memory, replace(RECIPE, neighbours=10)).shape == (3, 32)


def test_hidden_cameras_encode_as_the_unknown_one(model: FPCModel) -> None:
    images = image_set([0, 0, 1], [0, 1, 0])
    unknown = replace(images, cameras=torch.full((3,), 2))

    hidden = encode_images(model, images, {}, FLOAT32, known_cameras=False)

    torch.testing.assert_close(hidden.descriptors, encode_images(model, unknown, {}, FLOAT32).descriptors)


def test_a_ranking_by_hand() -> None:
    query, gallery = image_set([0, 1], [0, 0]), image_set([0, 0, 1, 2], [0, 1, 1, 1])
    # Person 0: its own camera's image (first) is left out; then 1 of rank 2. Person 1: the best of four.
    similarity = torch.tensor([[1.0, 0.5, 0.6, 0.1], [0.1, 0.2, 0.9, 0.3]])
    known = torch.linalg.qr(torch.randn(4, 4))[0]

    score = rank(similarity @ known, known, query, gallery)

    assert score.mean_average_precision == pytest.approx(100 * (1 / 2 + 1) / 2)
    assert score.rank1 == pytest.approx(50)


def test_batches_show_four_of_each_of_two_people() -> None:
    identities = torch.arange(6).repeat_interleave(5)
    seed_epoch(0, "encoder", 0)

    drawn = list(Batches(identities, RECIPE))

    assert len(drawn) == 30 // 8
    for index in drawn:
        assert torch.unique(identities[index], return_counts=True)[1].tolist() == [4, 4]


def test_fewer_people_than_a_batch_shows() -> None:
    with pytest.raises(SourceError, match="--batch-size 8 or less"):
        Batches(torch.arange(2).repeat_interleave(5), Recipe())


def test_an_epoch_draws_the_same_again() -> None:
    augment = Augmentation(replace(RECIPE, jitter=0.3), 32, 16, torch.device("cpu"))
    crops = torch.randint(0, 256, (4, 32, 16, 3), dtype=torch.uint8)
    drawn = []
    for epoch in (3, 3, 4):
        seed_epoch(0, "encoder", epoch)
        drawn.append((augment(crops), [index.tolist() for index in Batches(torch.arange(8).repeat(4), RECIPE)]))

    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] == drawn[1][1]
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert drawn[0][1] != drawn[2][1]


def test_pixels_without_augmentation_are_those_of_the_model() -> None:
    plain = Augmentation(replace(RECIPE, flip=0, padding=0, erasing=0), 32, 16, torch.device("cpu"))
    pixels = plain(torch.tensor([0, 128, 255], dtype=torch.uint8).repeat(1, 32, 16, 1))

    assert pixels.shape == (1, 3, 32, 16)
    assert (float(pixels.min()), float(pixels.max())) == (-1, 1)


def test_cameras_are_hidden_as_often_as_asked() -> None:
    torch.manual_seed(0)
    hidden = hide_cameras(torch.zeros(4000, dtype=torch.int64), 0.3, 6)

    assert float((hidden == 6).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_the_soft_margin_triplet_loss_is_that_of_the_published_code() -> None:
    torch.manual_seed(0)
    before, labels = torch.randn(8, 4), torch.arange(2).repeat_interleave(4)
    logits = torch.zeros(8, 2)
    distance = torch.cdist(before, before)
    same = labels[:, None] == labels
    hardest = torch.stack([distance.masked_fill(~same, -1).amax(1), distance.masked_fill(same, 1e9).amin(1)])
    expected = torch.nn.functional.soft_margin_loss(hardest[1] - hardest[0], torch.ones(8)) + np.log(2)

    torch.testing.assert_close(Objective(Recipe(), 4).descriptors(before, logits, labels), expected.float())


def test_the_rate_rises_and_falls() -> None:
    recipe = replace(RECIPE, warm_up=0.1, learning_rate=1.0)
    optimizer = create_optimizer(torch.nn.Linear(2, 2), recipe, "encoder")
    schedule = create_schedule(optimizer, 100, recipe)
    rates = []
    for step in range(100):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])

    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(rates[10])
    assert rates[10] > 0.95
    assert rates[99] < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep_rate": 0.0}, "--keep-rate 0.0"),
        ({"prune_at": (3, 6)}, "--prune-at 3,6 does not fit: give shared blocks, 0 to 2"),
        ({"batch_size": 10}, "--batch-size 10"),
        ({"images_per_identity": 1}, "--images-per-identity 1"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0"),
        ({"erasing": 1.5}, "--erasing 1.5"),
        ({"encoder_epochs": 0}, "--encoder-epochs 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_recipes_that_do_not_fit_name_the_option(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message.replace("(", r"\(")):
        replace(RECIPE, **change).check(CONFIG)


def test_a_recipe_survives_a_checkpoint() -> None:
    recipe = replace(RECIPE, prune_at=(1, 2), alpha=0.4)
    stored = {**vars(recipe), "prune_at": [1, 2], "of a later version": 1}

    assert recipe_from(stored) == recipe


def test_batches_draw_their_keep_rates(model: FPCModel) -> None:
    recipe = replace(RECIPE, keep_rate=0.9, lowest_keep_rate=0.3)
    images = image_set([0, 0, 1, 1], [0, 1, 0, 1])
    phase = EncoderPhase(model, torch.nn.Linear(32, 2, bias=False), images, recipe, FLOAT32)
    survivors = {tuple(phase.keep().values()) for _ in range(60)}

    assert {counts[0] for counts in survivors} <= set(range(3, 9))  # ceil(0.3 * 8) to ceil(0.9 * 8)
    assert len(survivors) >= 5
    assert torch.isfinite(phase.loss(torch.arange(4), 0))


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_keep_rates_that_leave_nothing_to_draw(rate: float) -> None:
    with pytest.raises(CheckpointError, match="--lowest-keep-rate"):
        replace(RECIPE, lowest_keep_rate=rate).check(CONFIG)
