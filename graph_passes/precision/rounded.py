"""A half-precision graph in float32, with every value rounded where the graph rounds it.

ONNX Runtime's CPU computes float16 in float32 and leaves out the Casts between its kernels, so a value that overflows
on a GPU does not there. Casts that stand in the graph are computed as they are.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..ir_tools.infer_shapes import infer_missing_shapes

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
FLOAT = ir.DataType.FLOAT

# What these give was rounded before.
_MOVES = frozenset({"Reshape", "Transpose", "Slice", "Gather", "Concat", "Split", "Squeeze", "Unsqueeze", "Flatten"})
_MOVES |= {"Expand", "Identity", "Tile", "Where", "Relu", "Pad"}


def rounded(model: ir.Model) -> ir.Model:
    """A graph of float32 types that computes what `model` does; one without half-precision values as it is.

    Names stay. Inputs and outputs are float32 too: the caller rounds what it gives, and outputs have been rounded.

    Args:
        model: no local functions; weights are converted when they are read.
    """
    if not any(value.dtype in HALVES for value in _all_values(model.graph)):
        return model
    result = model.clone()
    infer_missing_shapes(result)
    graph = result.graph
    for value in graph.initializers.values():
        if value.dtype in HALVES and value.const_value is not None:
            value.const_value = _widened(value.const_value, value.name or "")
    wanted = {value: half for value in _all_values(graph) if (half := value.dtype) in HALVES and half}
    for value in wanted:
        value.type = ir.TensorType(FLOAT)
    for value in graph.inputs:
        if value in wanted and not value.is_initializer():
            _round(graph, value, wanted[value])
    for node in list(graph):
        if node.outputs and node.outputs[0] in wanted:
            retype_attributes(node)
        for output in node.outputs:
            if output in wanted and node.op_type not in _MOVES and node.op_type != "Constant":
                _round(graph, output, wanted[output])
    return result


def _all_values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return list(dict.fromkeys(values))


def _widened(tensor: ir.TensorProtocol, name: str) -> ir.LazyTensor:
    def convert() -> ir.Tensor:
        return ir.Tensor(tensor.numpy().astype(np.float32), name=name)

    return ir.LazyTensor(convert, dtype=FLOAT, shape=ir.Shape(tensor.shape.numpy()), name=name)


def retype_attributes(node: ir.Node) -> None:
    """Set the attributes that say the type of a node's output to float32, which it is now."""
    for name in ("to", "dtype"):
        if name in node.attributes:
            node.attributes[name] = ir.AttrInt64(name, int(FLOAT))
    value = node.attributes.get("value")
    if value is not None and value.type == ir.AttributeType.TENSOR:
        array = value.as_tensor().numpy().astype(np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array))


def _round(graph: ir.Graph, value: ir.Value, half: ir.DataType) -> None:
    """Everyone who reads `value` reads it rounded to `half`; what is computed keeps the name for the rounded one."""
    down = ir.node("Cast", [value], {"to": int(half)})
    up = ir.node("Cast", [down.outputs[0]], {"to": int(FLOAT)})
    down.outputs[0].type, up.outputs[0].type = ir.TensorType(half), ir.TensorType(FLOAT)
    down.outputs[0].shape = up.outputs[0].shape = value.shape
    name, producer = value.name or "", value.producer()
    down.outputs[0].name, up.outputs[0].name = f"{name}.down", f"{name}.up"
    readers = [(node, index) for node, index in value.uses() if node is not down]
    if producer is None:
        graph.insert_before(graph[0], [down, up])
    else:
        value.name, up.outputs[0].name = f"{name}.exact", name
        graph.insert_after(producer, [down, up])
        for i, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[i] = up.outputs[0]
    for node, index in readers:
        node.replace_input_with(index, up.outputs[0])
