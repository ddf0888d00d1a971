"""Multiply-adds of the exported sparse encoder are those of the paper's table 4."""

import pytest
import torch

from export.graphs import EncoderGraph
from export.model import FPCModel, ModelConfig, keep_counts
from export.multiply_adds import count_as_published, count_linear
from export.tracing import Port, trace_graph

VIT_B = ModelConfig(cameras=8)


@pytest.fixture(scope="module")
def model() -> FPCModel:
    return FPCModel(VIT_B).eval()


def test_keep_counts_of_the_paper() -> None:
    assert keep_counts(242, 0.8, (3, 6, 9)) == {3: 194, 6: 156, 9: 125}
    assert keep_counts(242, 1.0, (3, 6, 9)) == {}
    assert keep_counts(10, 0.7, (1,)) == {1: 7}  # 0.7 * 10 is a little over 7 in binary
    assert keep_counts(1, 0.1, (1, 2)) == {1: 1, 2: 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep_rate", "published_g"), [(1.0, 20.8), (0.9, 18.1), (0.8, 15.7), (0.7, 13.6), (0.6, 11.9), (0.5, 10.4)]
)
def test_table_4(model: FPCModel, keep_rate: float, published_g: float) -> None:
    graph = EncoderGraph(model, keep_counts(VIT_B.patches, keep_rate, (3, 6, 9)), sparse=True)
    crops = Port("crops", torch.zeros(2, 256, 128, 3, dtype=torch.uint8), {0: "B"})
    camera = Port("camera", torch.zeros(2, dtype=torch.int64), {0: "B"})
    exported = trace_graph(graph, [crops, camera], ["cls", "patches", "descriptor", "kept"])
    assert count_as_published(exported, VIT_B) / 1e9 == pytest.approx(published_g, abs=0.1)
    assert count_linear(exported) < count_as_published(exported, VIT_B)
