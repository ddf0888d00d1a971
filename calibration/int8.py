"""INT8 as explicit Q/DQ nodes: zero point 0, one scale a weight column, one scale an activation.

ONNX Runtime's quantiser writes the nodes. ModelOpt writes the same form, but needs torch, and its ONNX part (0.47)
holds onnx at 1.21 and onnxruntime-gpu at 1.24. Quantised are products with weights that run over all tokens, nine
tenths of the work. Attention products stay as they are, and so do the patch embedding, a convolution that ONNX
Runtime's CPU provider would still run in float32, and the one-row head behind the descriptor.
"""

import contextlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from runtime.engines import open_engine

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)

BATCH = 4
"""Crops encoded at once: all activations of a ViT-B for 4 crops are 230 MB."""
PERCENTILE = 99.99
"""Share of activations, by magnitude, that the range covers; the rest saturates."""
BINS = 1024
QUANTISED_BINS = 128
"""Bins of the histograms, and levels of a magnitude in int8, for which entropy is compared; twice the bins take four
times as long."""
STRIDE = 7
"""Histograms count every seventh value: seven has no factor in common with a width, so that every channel is seen."""


def quantised_nodes(model: ModelProto) -> list[NodeProto]:
    """Return the products that are quantised: with a constant matrix, over more than one token."""
    sizes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or sizes.get(node.input[1]) != 2:
            continue
        shape = shapes.get(node.input[0])
        if shape is None or len(shape) < 2 or shape[-2].dim_value != 1:
            found.append(node)
    return found


def collect_ranges(
    model: ModelProto, crops: NDArray[np.uint8], camera: int, method: Method, scratch: Path
) -> dict[str, float]:
    """Run an encoder over crops and return {activation: largest magnitude that int8 is to reach}.

    Args:
        model: the encoder graph.
        crops: (n, H, W, 3) uint8.
        camera: index passed with every crop.
        method: `minmax` takes the largest value seen, `percentile` leaves out outliers, `entropy` minimises the
            divergence between the values and their quantised form.
        scratch: folder for a copy of the graph.
    """
    names = list(dict.fromkeys(node.input[0] for node in quantised_nodes(model)))
    probed = ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    path = scratch / "probed.onnx"
    onnx.save(probed, path)
    engine = open_engine(path, "onnxruntime")
    ranges = _Maxima() if method == "minmax" else _Histograms(method)
    for start in range(0, len(crops), BATCH):
        part = crops[start : start + BATCH]
        answer = engine.run({"crops": part, "camera": np.full(len(part), camera, np.int64)})
        ranges.add({name: answer[name].astype(np.float32) for name in names})
    path.unlink()
    return ranges.limits()


def to_int8(model: ModelProto, ranges: Mapping[str, float]) -> ModelProto:
    """Return a copy of an encoder graph with Q/DQ nodes around its products.

    Args:
        model: float32 graph.
        ranges: {activation: largest magnitude}, for every activation of `quantised_nodes`.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = ModelProto()
    copy.CopyFrom(model)
    limits = {name: TensorData(lowest=np.float32(-most), highest=np.float32(most)) for name, most in ranges.items()}
    quantiser: Any = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[node.name for node in quantised_nodes(model)],
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],  # a product's sum stays exact until it is read again
        },
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    result: ModelProto = quantiser.model.model
    onnx.checker.check_model(result, full_check=True)
    return result


class _Maxima:
    """Largest magnitude of each activation."""

    def __init__(self) -> None:
        self._most: dict[str, float] = {}

    def add(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        for name, value in values.items():
            self._most[name] = max(self._most.get(name, 0.0), float(np.abs(value).max()))

    def limits(self) -> dict[str, float]:
        return dict(self._most)


class _Histograms:
    """Histograms of each activation, by ONNX Runtime's collector."""

    def __init__(self, method: Method) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        self._collector: Any = HistogramCollector(
            method=method,
            symmetric=True,
            num_bins=BINS,
            num_quantized_bins=QUANTISED_BINS,
            percentile=PERCENTILE,
            scenario="same",
        )

    def add(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        with _quiet():
            self._collector.collect({name: value.reshape(-1)[::STRIDE] for name, value in values.items()})

    def limits(self) -> dict[str, float]:
        with _quiet():
            found: dict[str, Iterable[Any]] = self._collector.compute_collection_result()
        return {name: max(abs(float(low)), abs(float(high))) for name, (low, high, *_) in found.items()}


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    return contextlib.redirect_stdout(io.StringIO())  # the collector prints its progress
