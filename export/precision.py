"""FP16 as a property of the graph: products run in half, whatever can overflow or decides stays in float32.

TensorRT 11 types every network strongly and has no precision flag, so the graph itself says what runs in which type.
The rules, by what a node does and not by its name:

* a product with weights runs in half, and so do the additions, activations and moves of data that follow it;
* a product of two computed values runs in half if both are bounded by construction: normalised, a softmax's shares, or
  a product of such. Raw inputs, Sinkhorn's scalings and sums over them are not, so the matcher stays as it is;
* scores that a TopK reads, LayerNormalization, softmax (the operator or spelt out), reductions and the residual stream
  stay in float32, and so do the graph's inputs and outputs.

Ready converters (onnxconverter-common, onnxruntime.transformers.float16) keep nodes in float32 by operator or by name.
An operator does not tell a residual addition from a bias, nor Sinkhorn's products from an encoder's, and a list of
names would have to come from the rules above, which are most of this file.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LARGEST_HALF = float(np.finfo(np.float16).max)
SMALLEST_HALF = float(np.finfo(np.float16).smallest_subnormal)

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
FOLLOWING = frozenset(
    {"Add", "Gelu", "Mul", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)  # run in the type of what they get, where only one operand is computed
BOUNDED = frozenset({"Exp", "LayerNormalization", "Softmax"})
"""Results that half can hold: every `Exp` of our graphs is of something that is at most 0."""


def to_fp16(model: ModelProto) -> ModelProto:
    """Return a copy of a float32 graph with its weights and products in half.

    Inputs and outputs keep their types. A graph without a product that may run in half (the matcher) comes back
    unchanged.

    Args:
        model: checked, in topological order, as `export.tracing.trace_graph` makes it.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    _Converter(copy).run()
    onnx.checker.check_model(copy, full_check=True)
    return copy


def convert_graph(graph: str, before: Path, after: Path) -> None:
    """Write the graph at `before` in half to `after`; the form that `calibration.derive.derive_bundle` asks for."""
    onnx.save(to_fp16(onnx.load(before)), after)


class _Converter:
    """One pass over the nodes in their order, casting where a value changes type."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.outputs = {value.name for value in self.graph.output}
        self.pinned = _scores_of_topk(self.graph.node)
        self.half: set[str] = set()  # values that are float16
        self.bounded: set[str] = set()  # values that float16 can hold
        self.casts: dict[tuple[str, int], str] = {}  # (value, type it is cast to): the cast one
        self.nodes: list[NodeProto] = []
        self.added: dict[str, TensorProto] = {}

    def run(self) -> None:
        """Convert the graph in place."""
        for node in self.graph.node:
            in_half = self._runs_in_half(node)
            held = node.op_type in BOUNDED or (
                node.op_type in FOLLOWING and any(name in self.bounded for name in node.input)
            )
            if in_half or held:
                self.bounded.update(node.output)
            converted = NodeProto()
            converted.CopyFrom(node)
            for place, name in enumerate(node.input):
                converted.input[place] = self._as_half(name) if in_half else self._as_single(name)
            self.nodes.append(converted)
            if in_half:
                self.half.update(node.output)
                self._restore_outputs(converted)
        self._replace()

    def _runs_in_half(self, node: NodeProto) -> bool:
        fixed = [name for name in node.input if name in self.constants]
        computed = [name for name in node.input if name and name not in self.constants]
        if not all(_fits(self.constants[name]) for name in fixed):
            return False
        if node.op_type in PRODUCTS:
            if len(computed) == 1:
                return not any(_only_sums(self.constants[name]) for name in fixed)
            return all(name in self.bounded for name in computed) and node.output[0] not in self.pinned
        return node.op_type in FOLLOWING and len(computed) == 1 and computed[0] in self.half

    def _as_half(self, name: str) -> str:
        constant = self.constants.get(name)
        if constant is None:
            return name if not name or name in self.half else self._cast(name, TensorProto.FLOAT16)
        if constant.data_type != TensorProto.FLOAT:
            return name
        half = f"{name}.half"
        if half not in self.added:
            values = numpy_helper.to_array(constant).astype(np.float16)
            self.added[half] = numpy_helper.from_array(values, half)
        return half

    def _as_single(self, name: str) -> str:
        return self._cast(name, TensorProto.FLOAT) if name in self.half else name

    def _cast(self, name: str, to: int) -> str:
        if (name, to) not in self.casts:
            cast = f"{name}.{'half' if to == TensorProto.FLOAT16 else 'single'}"
            self.nodes.append(helper.make_node("Cast", [name], [cast], name=f"cast_{cast}", to=to))
            self.casts[name, to] = cast
        return self.casts[name, to]

    def _restore_outputs(self, node: NodeProto) -> None:
        """Let an output of the graph come out in float32 under its own name."""
        for place, name in enumerate(node.output):
            if name in self.outputs:
                node.output[place] = f"{name}.half"
                self.casts[name, TensorProto.FLOAT] = name
                self.half.add(node.output[place])
                self.casts[name, TensorProto.FLOAT16] = node.output[place]
                self.half.discard(name)
                self.nodes.append(
                    helper.make_node("Cast", [f"{name}.half"], [name], name=f"cast_{name}", to=TensorProto.FLOAT)
                )

    def _replace(self) -> None:
        used = {name for node in self.nodes for name in node.input}
        tensors = [tensor for tensor in self.graph.initializer if tensor.name in used]
        for value in self.graph.value_info:
            if value.name in self.half:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        self.graph.ClearField("node")
        self.graph.node.extend(self.nodes)
        self.graph.ClearField("initializer")
        self.graph.initializer.extend([*tensors, *self.added.values()])


def _fits(tensor: TensorProto) -> bool:
    """Whether half can hold a constant: nothing overflows, and not everything in it vanishes."""
    if tensor.data_type != TensorProto.FLOAT:
        return True
    peak = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
    return peak == 0 or SMALLEST_HALF <= peak <= LARGEST_HALF


def _only_sums(tensor: TensorProto) -> bool:
    """Whether a product with this constant adds values up and weighs none: it is a reduction."""
    values = numpy_helper.to_array(tensor)
    return bool(values.any() and np.isin(values, (0, 1)).all())


def _scores_of_topk(nodes: Iterable[NodeProto]) -> set[str]:
    """Return the outputs of the products that a TopK chooses by: what is nearest upstream of it."""
    nodes = list(nodes)
    made_by = {name: node for node in nodes for name in node.output}
    pinned: set[str] = set()
    waiting = [node.input[0] for node in nodes if node.op_type == "TopK"]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None:
            continue
        if node.op_type in PRODUCTS:
            pinned.update(node.output)
        else:
            waiting.extend(node.input)
    return pinned
