"""Which nodes of a half-precision graph stay in float32, and why.

In a strongly typed TensorRT network a layer computes in the type of its inputs
(`INormalizationLayer::setComputePrecision` in NvInfer.h 10.3 says so, and the call is refused): float32 accumulation
inside a normalisation or a softmax exists only where the graph casts to float32 before it. The fused `Attention` of
opset 23 is one operator and stays in half precision whole: TensorRT refuses its attribute `softmax_precision`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ...errors import GraphError, RequestError, nearest

FLOAT = ir.DataType.FLOAT

_NORMAL = "a normalisation sums squares"
_SUM = "a sum over many elements"
_SQUARE = "a square exceeds 65504 from 256 on"
BY_OPERATOR: Mapping[str, str] = {
    "LayerNormalization": _NORMAL,
    "RMSNormalization": _NORMAL,
    "GroupNormalization": _NORMAL,
    "InstanceNormalization": _NORMAL,
    "MeanVarianceNormalization": _NORMAL,
    "LpNormalization": _NORMAL,
    "Softmax": "a softmax sums exponentials",
    "LogSoftmax": "a softmax sums exponentials",
    "Exp": "e^x exceeds 65504 from 11.1 on",
    "Pow": _SQUARE,
    "Sqrt": "its argument is a sum of squares",
    "Reciprocal": "its argument can be close to zero",
    "Sin": "an angle needs its fractional part",
    "Cos": "an angle needs its fractional part",
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2", "CumSum"), _SUM),
    **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "GlobalAveragePool"), _SUM),
}

# Only constants up to this size are checked: masks, scales and epsilons, not weights.
_SMALL = 4096
_TYPE_NAMES = {"FLOAT16": "tensor(float16)", "BFLOAT16": "tensor(bfloat16)"}


def asked_for(keys: Mapping[ir.Node, str], named: Mapping[str, str]) -> dict[ir.Node, str]:
    """The nodes that were named, by `walk.node_keys` or by a name that several carry, with the reason.

    Raises:
        RequestError: a node of `named` does not exist.
    """
    found = {node: named[call] for node, key in keys.items() for call in (key, node.name) if call and call in named}
    known = {call for node, key in keys.items() for call in (key, node.name)}
    for name in named:
        if name not in known:
            raise RequestError(
                f"there is no node {name!r} to keep in float32", fix=nearest(name, list(keys.values()), kind="nodes")
            )
    return found


def plan(model: ir.Model, half: ir.DataType, named: Mapping[ir.Node, str]) -> dict[ir.Node, str]:
    """Every node that computes in float32, with the reason.

    Args:
        model: a float32 graph without local functions; every value has a type.
        half: FLOAT16 or BFLOAT16.
        named: node -> reason, of the islands the caller asks for.

    Raises:
        GraphError: a node holds a subgraph, or a value has no type.
    """
    opset = model.graph.opset_imports.get("", 18)
    result: dict[ir.Node, str] = {}
    for node in model.graph:
        name = node.name or node.outputs[0].name
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            raise GraphError(
                f"{node.op_type} holds a subgraph, and its precision cannot be changed",
                where=f"graph {model.graph.name!r}, node {name!r}",
                fix="Export the model with static shapes, so that it contains no If, Loop or Scan.",
            )
        for value in node.outputs:
            if value.name and value.dtype is None:
                raise GraphError(
                    f"value {value.name!r} has no type",
                    where=f"graph {model.graph.name!r}, node {name!r} ({node.domain}::{node.op_type})",
                    fix="Shape inference stops at operators it does not know: give their outputs types.",
                )
        if node.op_type == "Constant" or not touches_float(node):
            continue
        reason = named.get(node) or _reason(node, half, opset)
        if reason:
            result[node] = reason
    for node in list(result):
        if node.op_type in ("Sin", "Cos"):
            _add_ancestors(node, f"feeds {node.name or node.outputs[0].name}", result)
    for node in model.graph:
        if _is_cast_to_integer(node):
            _add_ancestors(node, f"feeds the integers of {node.name or node.outputs[0].name}", result)
    return result


def touches_float(node: ir.Node) -> bool:
    """Whether a node reads or writes float32."""
    return any(value is not None and value.dtype == FLOAT for value in (*node.inputs, *node.outputs))


def half_slots(node: ir.Node, half: ir.DataType, opset: int) -> tuple[set[int], set[int]]:
    """Indices of the inputs and outputs whose type may be `half` by the ONNX standard; empty for unknown operators."""
    import onnx

    # Its types are attributes, of any float.
    if node.op_type == "Cast":
        sides = (node.inputs[0], node.outputs[0])
        return tuple({0} if value is not None and value.dtype == FLOAT else set() for value in sides)  # type: ignore
    try:
        schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset, domain=node.domain)
    except onnx.defs.SchemaError:
        return set(), set()
    takes = {c.type_param_str for c in schema.type_constraints if _TYPE_NAMES[half.name] in c.allowed_type_strs}
    slots = []
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        slots.append(
            {
                i
                for i, value in enumerate(values)
                if value is not None and value.dtype == FLOAT and formals[min(i, len(formals) - 1)].type_str in takes
            }
        )
    return slots[0], slots[1]


def _reason(node: ir.Node, half: ir.DataType, opset: int) -> str:
    if node.op_type in BY_OPERATOR:
        return BY_OPERATOR[node.op_type]
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return _SQUARE
    if node.op_type == "Cast" and _is_integer(node.inputs[0]):
        return "integers stay exact"
    inputs, outputs = half_slots(node, half, opset)
    if not inputs and not outputs:
        return f"{node.domain or 'the standard'} has no {half.name.lower()} {node.op_type}"
    for i in inputs:
        value = node.inputs[i]
        if value is not None and (broken := _lost_constant(value, half)):
            return broken
    return ""


def _lost_constant(value: ir.Value, half: ir.DataType) -> str:
    """Why a small constant cannot be written in `half`: it overflows, or (a single number) loses more than 1 %."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > _SMALL:
        return ""
    array = tensor.numpy().astype(np.float32).reshape(-1)
    with np.errstate(over="ignore"):
        rounded = array.astype(half.numpy()).astype(np.float32)
    lost = np.isfinite(array) & ~np.isfinite(rounded)
    if array.size == 1:
        lost |= np.abs(rounded - array) > 0.01 * np.abs(array)
    return f"the constant {array[lost][0]:g} does not fit {half.name.lower()}" if lost.any() else ""


def _add_ancestors(node: ir.Node, reason: str, result: dict[ir.Node, str]) -> None:
    """Also keep in float32 the nodes that an angle or an index is computed from, except graph inputs."""
    found: dict[ir.Node, None] = {}
    todo = [value for value in node.inputs if value is not None and value.dtype == FLOAT]
    while todo:
        value = todo.pop()
        producer = value.producer()
        if producer is None:
            if value.is_graph_input():
                return
            continue
        if producer not in found and producer.op_type != "Constant":
            found[producer] = None
            todo += [v for v in producer.inputs if v is not None and v.dtype == FLOAT]
    for ancestor in found:
        result.setdefault(ancestor, reason)
    if touches_float(node):
        result.setdefault(node, reason)


def _is_integer(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_integer()


def _is_cast_to_integer(node: ir.Node) -> bool:
    return node.op_type == "Cast" and _is_integer(node.outputs[0]) and not _is_integer(node.inputs[0])
