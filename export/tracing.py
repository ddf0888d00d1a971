"""From a torch module to a lean ONNX graph: trace, replace what a constant can replace, drop the rest."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from torch import Tensor, nn
from torch.export import Dim

OPSET = 20
"""First opset with Gelu as one operator; LayerNormalization is one since 17. TensorRT 10 reads both."""


@dataclass(frozen=True)
class Port:
    """One input of a graph: its name, an example, and the names of its dynamic axes."""

    name: str
    example: Tensor
    axes: dict[int, str]


def trace_graph(module: nn.Module, inputs: Sequence[Port], outputs: Sequence[str]) -> ModelProto:
    """Trace `module` into an ONNX model with dynamic axes as named by `inputs`.

    Args:
        module: takes the inputs in order, returns the outputs in order.
        inputs: examples must have at least 2 along every dynamic axis (torch takes a 1 for a constant).
        outputs: names of the outputs.

    Returns:
        A checked model without shape arithmetic, `Expand` or `GatherElements` over tokens.
    """
    module.eval()
    with explicit_attention(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            module,
            tuple(port.example for port in inputs),
            input_names=[port.name for port in inputs],
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=tuple(dict.fromkeys(port.axes, Dim.DYNAMIC) for port in inputs),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = simplify(program.model_proto)
    _name_axes(model, inputs)
    onnx.checker.check_model(model, full_check=True)
    return model


@contextlib.contextmanager
def explicit_attention(module: nn.Module) -> Iterator[None]:
    """Make timm's attention spell out its products: the fused form is traced into a detour over Shape and Reshape."""
    fused = [part for part in module.modules() if getattr(part, "fused_attn", False)]
    for part in fused:
        part.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in fused:
            part.fused_attn = True  # type: ignore[assignment]


def simplify(model: ModelProto) -> ModelProto:
    """Simplify token gathers and computed shapes, then drop dead nodes and the exporter's notes."""
    _gather_rows(model)
    _fix_reshapes(model)
    _drop_dead(model)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # stack traces with paths of the machine that exported
        node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    return model


def dims_of(value: ValueInfoProto) -> list[int | str]:
    """Return the shape of a value: numbers, and names where an axis is dynamic."""
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim]


def shapes_of(model: ModelProto) -> dict[str, list[int | str]]:
    """Return {value name: shape} for everything in the graph whose shape is recorded."""
    graph = model.graph
    known = {value.name: dims_of(value) for value in (*graph.value_info, *graph.input, *graph.output)}
    return known | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def with_outputs(model: ModelProto, extra: Sequence[str]) -> ModelProto:
    """Return a copy that also answers with the inner values named in `extra`."""
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in model.graph.value_info}
    copy.graph.output.extend(known[name] for name in extra)
    return copy


def _gather_rows(model: ModelProto) -> None:
    """Turn `GatherElements(x, Expand(i))` along tokens into `GatherND(x, i)`, which copies whole rows."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type != "GatherElements":
            continue
        index = made_by.get(node.input[1])
        if index is None or index.op_type != "Expand" or helper.get_node_attr_value(node, "axis") != 1:
            continue
        node.op_type = "GatherND"
        node.input[1] = index.input[0]  # (B, k, 1)
        node.ClearField("attribute")
        node.attribute.append(helper.make_attribute("batch_dims", 1))


def _fix_reshapes(model: ModelProto) -> None:
    """Give every Reshape whose target is computed a constant one, with -1 for the one dynamic axis."""
    shapes = shapes_of(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        target = shapes[node.output[0]]
        if sum(isinstance(size, str) for size in target) > 1:
            raise RuntimeError(f"{node.name} reshapes to {target}: two axes would have to be computed")
        name, fixed = f"reshape_{number}_target", [size if isinstance(size, int) else -1 for size in target]
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(fixed)], fixed))
        node.input[1] = name


def _drop_dead(model: ModelProto) -> None:
    """Remove nodes and initializers that no output needs."""
    needed, alive = {value.name for value in model.graph.output}, list[NodeProto]()
    for node in reversed(model.graph.node):  # nodes come in topological order
        if needed.intersection(node.output):
            alive.append(node)
            needed.update(node.input)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    values = [value for value in model.graph.value_info if value.name in needed]
    for field, content in (("node", alive[::-1]), ("initializer", kept), ("value_info", values)):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(content)


def _name_axes(model: ModelProto, inputs: Sequence[Port]) -> None:
    """Give dynamic axes the names of the contract in place of the exporter's."""
    names: dict[str, str] = {}
    for port, value in zip(inputs, model.graph.input, strict=True):
        for axis, name in port.axes.items():
            names[value.type.tensor_type.shape.dim[axis].dim_param] = name
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
