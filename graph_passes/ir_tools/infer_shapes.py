"""Shape inference of the onnx package on a whole model: weights are not read, and its work has a bound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import onnx_ir as ir

from .call_order import in_call_order

if TYPE_CHECKING:
    import onnx

_SMALL_BYTES = 1000  # Initializers up to here may be axes or sizes.
# The integers that inference may carry from node to node: it copies them without a limit of its own, and a chain of
# Concats of a tensor with itself doubles them at each step.
_MOST_INTEGERS = 1 << 20


def infer_missing_shapes(model: ir.Model) -> None:
    """Annotate values with shapes and types the file lacks; a complete file is left alone."""
    values = (output for node in model.graph for output in node.outputs if output.name)
    if all(value.shape is not None and value.dtype is not None for value in values):
        return
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(
            _lean(model), check_type=False, strict_mode=False, data_prop=_integers(model) <= _MOST_INTEGERS
        )
    except Exception:
        # Its errors have no public base class; what cannot be inferred stays unknown, and who needs it says so.
        return
    todo: list[tuple[ir.Graph, onnx.GraphProto]] = [(model.graph, inferred.graph)]
    while todo:
        graph, proto = todo.pop()
        _annotate(graph, [*proto.value_info, *proto.output])
        for node, inner in zip(graph, proto.node):
            if node.attributes:
                todo += _bodies(node, inner)


def _lean(model: ir.Model) -> onnx.ModelProto:
    """The model without the content of its weights: their shapes and types are enough."""
    import onnx

    proto = onnx.ModelProto(ir_version=model.ir_version)
    proto.opset_import.extend(
        onnx.helper.make_opsetid(domain, version) for domain, version in model.graph.opset_imports.items()
    )
    proto.functions.extend(ir.to_proto(function) for function in model.functions.values())
    graph, given = proto.graph, set()
    graph.name = model.graph.name or "main"
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            value.shape, value.dtype = value.shape or ir.Shape(tensor.shape.numpy()), value.dtype or tensor.dtype
            if tensor.nbytes <= _SMALL_BYTES:
                graph.initializer.append(ir.to_proto(tensor))
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        if value not in given:
            given.add(value)
            ir.serde.serialize_value_into(graph.input.add(), value)
    for node in model.graph:
        ir.serde.serialize_node_into(graph.node.add(), node)
        for value in node.outputs:
            if value.name and value.type and not value.is_graph_output():
                ir.serde.serialize_value_into(graph.value_info.add(), value)
    for value in model.graph.outputs:
        ir.serde.serialize_value_into(graph.output.add(), value)
    return proto


def _annotate(graph: ir.Graph, found: Iterable[onnx.ValueInfoProto]) -> None:
    values = {output.name: output for node in graph for output in node.outputs}
    for info in found:
        value, tensor = values.get(info.name), info.type.tensor_type
        if value is None or info.type.WhichOneof("value") != "tensor_type":
            continue
        if tensor.HasField("shape"):
            shape = ir.Shape(
                dim.dim_value if dim.HasField("dim_value") else ir.SymbolicDim(dim.dim_param or None)
                for dim in tensor.shape.dim
            )
            value.shape = value.shape if value.shape == shape else shape
        if tensor.elem_type:
            value.dtype = ir.DataType(tensor.elem_type)


def _bodies(node: ir.Node, proto: onnx.NodeProto) -> list[tuple[ir.Graph, onnx.GraphProto]]:
    found: list[tuple[ir.Graph, onnx.GraphProto]] = []
    named = {attribute.name: attribute for attribute in proto.attribute}
    for name, attribute in node.attributes.items():
        if attribute.is_ref() or name not in named:
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append((attribute.value, named[name].g))
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += zip(attribute.value, named[name].graphs)
    return found


def _integers(model: ir.Model) -> int:
    """A bound on the integers that inference carries from node to node, all nodes together."""
    grows: dict[ir.OperatorIdentifier, int] = {}

    def carried(nodes: Iterable[ir.Node]) -> tuple[int, int]:
        """(all nodes together, the most of one), where what comes from outside is one integer."""
        counts: dict[ir.Value, int] = {}
        total, most = 0, 1
        for node in nodes:
            read = [_count(value, counts) for value in node.inputs if value is not None]
            count = sum(read) if node.op_type == "Concat" else max(read, default=1)
            count *= grows.get(node.op_identifier(), 1)
            counts.update(dict.fromkeys(node.outputs, count))
            total, most = min(total + count, _MOST_INTEGERS + 1), max(most, min(count, _MOST_INTEGERS + 1))
            if total > _MOST_INTEGERS:
                break
        return total, most

    for function in in_call_order(model):
        grows[function.identifier()] = carried(function.all_nodes())[1]
    return carried(model.graph.all_nodes())[0]


def _count(value: ir.Value, counts: dict[ir.Value, int]) -> int:
    if value in counts:
        return counts[value]
    size = 1 if value.const_value is None else value.const_value.size
    return max(1, size if size * 8 <= _SMALL_BYTES else 1)
