import numpy as np
import ot
import pytest
import torch

from fpc_deploy.training.objective import TEMPERATURE, Objective, PatchSimilarity
from fpc_deploy.training.recipe import Recipe

WIDTH = 8


def tokens(people: int, images: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """People as sets of 5 patches about a centre of their own, [cls] first, all far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(people, 1, 6, WIDTH, generator=generator)
    drawn = centres + spread * torch.randn(people, images, 6, WIDTH, generator=generator)
    return drawn.flatten(0, 1), torch.arange(people).repeat_interleave(images)


def test_patch_similarity_is_the_weighted_best_match() -> None:
    memory, _ = tokens(2, 2, 0.5)
    unit = torch.nn.functional.normalize(memory.double(), dim=-1).numpy()
    expected = np.empty((4, 4))
    for query in range(4):
        for other in range(4):
            weight = np.maximum(unit[query, 1:] @ unit[other, 0], 0)
            best = (unit[query, 1:] @ unit[other, 1:].T).max(axis=1)
            expected[query, other] = (weight * best).sum() / (weight.sum() + 1e-7)

    found = PatchSimilarity(WIDTH).compute_mat(memory.flatten(1), memory.flatten(1))

    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_patch_similarity_bounds_the_exact_transport() -> None:
    memory, _ = tokens(3, 1, 0.5)
    unit = torch.nn.functional.normalize(memory.double(), dim=-1).numpy()
    found = PatchSimilarity(WIDTH).compute_mat(memory.flatten(1), memory.flatten(1)).numpy()
    compared = 0
    for query in range(3):
        for other in range(3):
            supply = np.maximum(unit[query, 1:] @ unit[other, 0], 0)
            demand = np.maximum(unit[other, 1:] @ unit[query, 0], 0)
            if supply.sum() == 0 or demand.sum() == 0:
                continue
            cost = 1 - unit[query, 1:] @ unit[other, 1:].T
            emd = ot.emd2(supply / supply.sum(), demand / demand.sum(), cost)
            assert 1 - found[query, other] <= emd + 1e-6
            compared += 1

    assert compared >= 3


@pytest.mark.parametrize("name", ["cls_weight", "patch_weight"])
def test_the_contrast_wants_people_apart(name: str) -> None:
    objective = Objective(Recipe(**{name: 1.0}), WIDTH)  # type: ignore[arg-type]
    apart, labels = tokens(4, 4, 0.2)
    shuffled = labels.reshape(4, 4).T.flatten()  # the same tokens, named at random

    assert objective.memory(apart, labels) < objective.memory(apart, shuffled) - 0.5


@pytest.mark.parametrize("name", ["cls_weight", "patch_weight"])
def test_the_contrast_spreads_tokens_that_point_one_way(name: str) -> None:
    """What hard triplets with a margin did not do: they drew the tokens of all people together."""
    objective = Objective(Recipe(**{name: 1.0}), WIDTH)  # type: ignore[arg-type]
    memory, labels = tokens(4, 4, 0.1)
    memory = (memory * 0.05 + 1).requires_grad_()  # a direction shared by all, twenty times what tells people apart
    optimizer = torch.optim.Adam([memory], lr=0.05)

    def similarity() -> float:
        unit = torch.nn.functional.normalize(memory.detach()[:, 0], dim=1)
        if name == "patch_weight":
            unit = torch.nn.functional.normalize(memory.detach()[:, 1:].mean(dim=1), dim=1)
        other = labels[:, None] != labels
        return float((unit @ unit.T)[other].mean())

    before = similarity()
    for _ in range(60):
        optimizer.zero_grad()
        objective.memory(memory, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    assert before > 0.99
    assert similarity() < 0.6


def test_no_weight_no_loss() -> None:
    memory, labels = tokens(2, 2, 0.1)

    assert float(Objective(Recipe(), WIDTH).memory(memory, labels)) == 0
    assert TEMPERATURE == 0.1
