"""INT8 as explicit Q/DQ nodes: zero point 0, one scale a weight column, one scale an activation.

ONNX Runtime's quantiser writes the nodes. ModelOpt writes the same form, but needs torch, and its ONNX part (0.47)
holds onnx at 1.21 and onnxruntime-gpu at 1.24. Quantised are products with weights that run over all tokens, nine
tenths of the work. Attention products stay as they are, and so do the patch embedding, a convolution that ONNX
Runtime's CPU provider would still run in float32, and the one-row head behind the descriptor.

What is done for accuracy, each measured on the first demo model (error of [cls] over its spread between crops):

* ranges by the error of the product that reads them, rather than of the values: 0.048 to 0.036;
* the mean error of every product goes into its bias: 0.030;
* values behind a GELU, which reach 30 times as far above 0 as below, are shifted into the middle of int8: 0.023.

Left out, as they gained less than 5 %: SmoothQuant's scaling of channels, and rounding weights with error feedback.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from calibration.ranges import Activation, Method, Scale, collect_activations

SHARES = tuple(np.linspace(0.3, 1.0, 15))
"""Shares of the range that was seen among which the best is chosen."""
ERROR_ROWS = 256
"""Tokens that this is judged by."""


def quantise(model: ModelProto, crops: NDArray[np.uint8], camera: int, method: Method, scratch: Path) -> ModelProto:
    """Return an encoder graph in int8.

    Args:
        model: float32 graph.
        crops: (n, H, W, 3) uint8 to calibrate with.
        camera: index passed with every crop.
        method: how ranges come from activations, see `calibration.ranges`.
        scratch: folder for a copy of the graph.
    """
    products = quantised_products(model)
    names = list(dict.fromkeys(product.activation for product in products))
    found = collect_activations(model, names, crops, camera, method, scratch)
    scales = {name: Scale.covering(seen.low, seen.high) for name, seen in found.items()}
    if method == "error":
        scales = {name: least_error(found[name], _weights(products, name)) for name in names}
    return to_int8(model, scales, {name: seen.rows for name, seen in found.items()})


@dataclass(frozen=True)
class Product:
    """A product that is quantised, and the addition of its bias.

    Attributes:
        node: the MatMul.
        activation: name of its left operand.
        weight: (d, e) float32.
        bias: name of the constant that is added to it; None where there is none.
    """

    node: NodeProto
    activation: str
    weight: NDArray[np.float32]
    bias: str | None


def quantised_products(model: ModelProto) -> list[Product]:
    """Return the products that are quantised: with a constant matrix, over more than one token."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for node in model.graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        shape = shapes.get(node.input[0])
        if weight is None or len(weight.dims) != 2 or (shape and len(shape) > 1 and shape[-2].dim_value == 1):
            continue
        following = readers.get(node.output[0], [])
        added = [name for name in following[0].input if name in constants] if len(following) == 1 else []
        bias = added[0] if added and following[0].op_type == "Add" else None
        found.append(Product(node, node.input[0], numpy_helper.to_array(weight), bias))
    return found


def least_error(seen: Activation, weights: NDArray[np.float32]) -> Scale:
    """Return the scale whose rounding and saturation change a product least.

    Args:
        seen: the activation.
        weights: (d, e) float32, what it is multiplied with.
    """
    rows = seen.rows[:: max(1, len(seen.rows) // ERROR_ROWS)]

    def error(scale: Scale) -> float:
        change = (scale.levels(rows) + scale.offset) * np.float32(scale.step) - rows
        return float(np.square(change @ weights, dtype=np.float64).mean())

    whole = Scale.covering(seen.low, seen.high)
    low = [1.0 if whole.offset else share for share in SHARES]  # what lies just below 0 is the bulk of such values
    return min((Scale.covering(a * seen.low, b * seen.high) for a, b in zip(low, SHARES, strict=True)), key=error)


def to_int8(
    model: ModelProto, scales: Mapping[str, Scale], rows: Mapping[str, NDArray[np.float32]] | None = None
) -> ModelProto:
    """Return a copy of an encoder graph with Q/DQ nodes around its products.

    Args:
        model: float32 graph.
        scales: one for every activation of `quantised_products`.
        rows: {activation: (n, d) float32 of its tokens}, by which biases make up for the mean error of their product;
            None leaves the biases as they are, but for the shifts.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = ModelProto()
    copy.CopyFrom(model)
    limits = {
        name: TensorData(lowest=np.float32(-reached), highest=np.float32(reached))
        for name, reached in _prepare(copy, scales, rows).items()
    }
    copy = onnx.shape_inference.infer_shapes(copy)  # the quantiser passes over values whose type is not recorded
    quantiser: Any = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[product.node.name for product in quantised_products(model)],
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


def _prepare(
    model: ModelProto, scales: Mapping[str, Scale], rows: Mapping[str, NDArray[np.float32]] | None
) -> dict[str, float]:
    """Shift activations and correct biases in place; return {activation: largest magnitude that int8 reaches}."""
    limits: dict[str, float] = {}
    for product in quantised_products(model):
        scale, name = scales[product.activation], product.activation
        if product.bias is None:
            # nothing can make up for a shift: what lies above 0 decides
            limits[name] = 127 * scale.step * (2 if scale.offset else 1)
            continue
        step = np.abs(product.weight).max(axis=0) / 127
        weight = np.rint(product.weight / np.maximum(step, np.finfo(np.float32).tiny)) * step
        missing = np.float32(scale.shift) * weight.sum(axis=0)
        if rows is not None:
            seen = rows[name]
            left = (scale.levels(seen) * np.float32(scale.step)).mean(axis=0, dtype=np.float64)
            missing = seen.mean(axis=0, dtype=np.float64) @ product.weight - left @ weight
        _add_to_bias(model, product, missing)
        if scale.offset:
            name = _shifted(model, product.node, scale)
        limits[name] = 127 * scale.step
    return limits


def _add_to_bias(model: ModelProto, product: Product, amount: NDArray[np.floating[Any]]) -> None:
    """Give a product a bias of its own: the exporter lets equal ones be one constant."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    before = numpy_helper.to_array(constants[str(product.bias)])
    name = f"{product.node.name}.bias"
    model.graph.initializer.append(numpy_helper.from_array((before + amount).astype(np.float32), name))
    for node in model.graph.node:
        if product.node.output[0] in node.input:
            node.input[list(node.input).index(str(product.bias))] = name


def _shifted(model: ModelProto, node: NodeProto, scale: Scale) -> str:
    """Subtract the shift from the left operand of a product; return the result's name."""
    name = f"{node.input[0]}.shifted"
    if name not in {output for other in model.graph.node for output in other.output}:
        constant = numpy_helper.from_array(np.array(scale.shift, np.float32), f"{name}.by")
        model.graph.initializer.append(constant)
        place = [other.name for other in model.graph.node].index(node.name)
        shift = helper.make_node("Sub", [node.input[0], constant.name], [name], name=name)
        model.graph.node.insert(place, shift)
    node.input[0] = name
    return name


def _weights(products: list[Product], activation: str) -> NDArray[np.float32]:
    return np.concatenate([product.weight for product in products if product.activation == activation], axis=1)
