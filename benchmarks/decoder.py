"""The exported decoder against the plain block on the same tokens: ViT-B, K = 10, 2,421 tokens, batch 1.

`python -m benchmarks.decoder`
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from export.graphs import DecoderGraph
from export.model import FPCModel, ModelConfig
from export.tracing import Port, trace_graph
from runtime.engines import open_engine

NEIGHBOURS = 10
ROUNDS = 30


def measure_ms(run: Callable[[], object], rounds: int) -> list[float]:
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    torch.manual_seed(0)
    config = ModelConfig(cameras=8)
    model = FPCModel(config).eval()
    if model.decoder is None:
        raise RuntimeError("the model of this benchmark has a decoder")
    width, patches = config.embed_dim, config.patches
    cls = torch.randn(2, NEIGHBOURS, width)
    tokens = torch.randn(2, NEIGHBOURS, patches, width)
    mask = torch.ones(2, NEIGHBOURS)
    ports = [
        Port("neighbour_cls", cls, {0: "B", 1: "K"}),
        Port("neighbour_patches", tokens, {0: "B", 1: "K", 2: "N"}),
        Port("neighbour_mask", mask, {0: "B", 1: "K"}),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decoder.onnx"
        onnx.save(trace_graph(DecoderGraph(model.decoder, "gallery"), ports, ["descriptor"]), path)
        engine = open_engine(path, "onnxruntime")
        inputs = {port.name: port.example[:1].numpy() for port in ports}
        with torch.inference_mode():
            plain_answer = model.consolidate(cls[:1], tokens[:1])[1].numpy()
            plain = measure_ms(lambda: model.consolidate(cls[:1], tokens[:1]), 5)
        difference = np.abs(engine.run(inputs)["descriptor"] - plain_answer).max()
        absorbed = measure_ms(lambda: engine.run(inputs), ROUNDS)
    median_plain, median_absorbed = statistics.median(plain), statistics.median(absorbed)
    print(f"{'':28}{'median ms':>10}{'min':>8}{'max':>8}")
    print(f"{'plain block, torch':28}{median_plain:10.1f}{min(plain):8.1f}{max(plain):8.1f}")
    print(f"{'decoder graph, ONNX Runtime':28}{median_absorbed:10.2f}{min(absorbed):8.2f}{max(absorbed):8.2f}")
    print(f"ratio {median_plain / median_absorbed:.0f} (at least 30 is the goal), max-abs difference {difference:.1e}")


if __name__ == "__main__":
    main()
