"""A data set and an evaluation of it, made once for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fpc_deploy.evaluation.datasets import TestSet, read_test_set
from fpc_deploy.evaluation.evaluation import Evaluation, Options
from fpc_deploy.evaluation.similarity import Graphs
from runtime.bundle import Bundle
from tests.fpc_deploy.evaluation.people import draw_market

STEPS: list[tuple[str, int, int]] = []
"""What the shared evaluation told of its progress."""


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in Market-1501 naming: 8 people, 3 cameras, 24 queries, 49 gallery images and one of junk."""
    return draw_market(tmp_path_factory.mktemp("market") / "striped")


@pytest.fixture(scope="session")
def market_set(market: Path) -> TestSet:
    """Its queries and gallery."""
    return read_test_set(market)


@pytest.fixture(scope="session")
def graphs(tiny_bundle: Bundle) -> Graphs:
    """The tiny bundle."""
    return Graphs(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def evaluation(market_set: TestSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluation]:
    """An evaluation that the tests share, as the rows of an ablation do."""
    scratch = tmp_path_factory.mktemp("scratch")
    with Evaluation(market_set, scratch, Options(), lambda *step: STEPS.append(step)) as shared:
        yield shared
