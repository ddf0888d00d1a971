"""The tiny bundle in each precision, converted by the project's own converters."""

import shutil
from pathlib import Path

import numpy as np
import onnx

from calibration.derive import derive_bundle
from calibration.gate import judge
from calibration.int8 import quantise
from export.parity import proof_crops
from export.precision import convert_graph
from runtime.bundle import Bundle, GraphName


def make_fp16(source: Bundle, out: Path) -> Bundle:
    crops = proof_crops(64, 32, 32, seed=1)
    return derive_bundle(
        source, out, "fp16", convert_graph, lambda a, b: judge(a, b, crops[:8], crops[8:]), allow_loss=True
    )[0]


def make_int8(source: Bundle, out: Path) -> Bundle:
    crops = proof_crops(64, 32, 32, seed=1)

    def convert(graph: GraphName, before: Path, after: Path) -> None:
        if not graph.endswith("encoder"):
            shutil.copyfile(before, after)
            return
        model = onnx.load(before)
        onnx.save(quantise(model, crops, 3, "minmax", after.parent), after)

    held_out = np.ascontiguousarray(crops[:8])
    return derive_bundle(source, out, "int8", convert, lambda a, b: judge(a, b, held_out, crops[8:]), allow_loss=True)[
        0
    ]
