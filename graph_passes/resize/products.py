"""Rules for operators that bring two operands together: broadcasting, matrix products, attention, einsum."""

from __future__ import annotations

import onnx_ir as ir

from ..ir_tools.contrib_shapes import operand_order
from .axis import Axes, Axis
from .state import Downstream


def broadcast(downstream: Downstream, node: ir.Node, spans: dict[int, tuple[int, int]]) -> Axes:
    """Token axes of operands broadcast together.

    Args:
        downstream: the state of the proof.
        node: the broadcasting node.
        spans: input index -> (first axis, end axis) that take part, aligned at the right.

    Returns:
        Axes of the result, counted from the left of the longest span.
    """
    rank = max((end - start for start, end in spans.values()), default=0)
    out: Axes = {}
    for at in range(rank):
        positions = {i: end - rank + at for i, (start, end) in spans.items() if end - rank + at >= start}
        tracked = [i for i, p in positions.items() if p in downstream.axes.get(node.inputs[i], {})]  # type: ignore[arg-type]
        if not tracked:
            continue
        axis = downstream.axes[node.inputs[tracked[0]]][positions[tracked[0]]]  # type: ignore[index]
        for i, position in positions.items():
            if i in tracked or downstream.dims(node, node.inputs[i])[position] != 1:
                axis = downstream.meet(node, i, position, axis)
        out[at] = axis
    return out


def matmul(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Rows may be tokens. A contraction over tokens needs the same tokens on both sides, as in attention."""
    left, right = (len(downstream.dims(node, value)) for value in node.inputs[:2])
    _contract(downstream, node, (0, left - 1), (1, max(right - 2, 0)))
    out = broadcast(downstream, node, {0: (0, max(left - 2, 0)), 1: (0, max(right - 2, 0))})
    rank = max(left - 2, right - 2, 0)
    if left > 1 and (axis := _axis(downstream, node, 0, left - 2)):
        out[rank] = axis
    if right > 1 and (axis := _axis(downstream, node, 1, right - 1)):
        out[rank + (left > 1)] = axis
    return [out]


def gemm(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """MatMul of two matrices, either transposed, plus an operand that broadcasts onto the result."""
    left, right = operand_order(node, 0, 2), operand_order(node, 1, 2)
    _contract(downstream, node, (0, left[1]), (1, right[0]))
    rows, columns = _axis(downstream, node, 0, left[0]), _axis(downstream, node, 1, right[1])
    out = {i: axis for i, axis in enumerate((rows, columns)) if axis is not None}
    if downstream.has_input(node, 2):
        dims = downstream.dims(node, node.inputs[2])
        for i, axis in out.items():
            position = i - 2 + len(dims)
            if position >= 0 and dims[position] != 1:
                downstream.meet(node, 2, position, axis)
    return [out]


def _axis(downstream: Downstream, node: ir.Node, index: int, position: int) -> Axis | None:
    return downstream.axes.get(node.inputs[index], {}).get(position)  # type: ignore[arg-type]


def _contract(downstream: Downstream, node: ir.Node, left: tuple[int, int], right: tuple[int, int]) -> None:
    """Sum over two axes, given as (input index, axis)."""
    axes = [_axis(downstream, node, *side) for side in (left, right)]
    if axes[0] is None and axes[1] is None:
        return
    for axis, (index, position) in zip(axes, (left, right)):
        if axis is None:
            downstream.refuse(
                node,
                f"it sums over the tokens with {downstream.label(node, index)} "
                f"{list(downstream.dims(node, node.inputs[index]))}, whose axis {position} has one entry per token",
            )
    downstream.meet(node, right[0], right[1], axes[0])  # type: ignore[arg-type]


def fused_matmul(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """MatMul as ONNX Runtime fuses it, without transposes."""
    for name in ("transA", "transB", "transBatchA", "transBatchB"):
        if name in node.attributes and node.attributes[name].as_int():
            downstream.refuse(node, f"{name} is not supported in FusedMatMul")
    return matmul(downstream, node)


def attention(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Attention (opset 23): the output follows the queries; keys, values and the mask must agree on theirs."""
    for i in (4, 5, 6):
        if downstream.has_input(node, i):
            downstream.refuse(node, f"it has a cache or padding input {downstream.label(node, i)} of fixed length")
    rank = len(downstream.dims(node, node.inputs[0]))
    at = rank - 2
    for i in range(3):
        for position in downstream.axes.get(node.inputs[i], {}):  # type: ignore[arg-type]
            if position != at:
                downstream.refuse(
                    node, f"axis {position} of {downstream.label(node, i)} runs over the tokens; only axis {at} may"
                )
    query, key, value = (_axis(downstream, node, i, at) for i in range(3))
    if (key is None) != (value is None):
        downstream.refuse(node, "only one of keys and values comes from the tokens")
    if key is not None:
        downstream.meet(node, 2, at, key)
    if downstream.has_input(node, 3):
        dims = downstream.dims(node, node.inputs[3])
        for position, axis in ((len(dims) - 2, query), (len(dims) - 1, key)):
            if axis is not None and position >= 0 and dims[position] != 1:
                downstream.meet(node, 3, position, axis)
    causal = "is_causal" in node.attributes and bool(node.attributes["is_causal"].as_int())
    if causal and query != key:
        downstream.refuse(node, "its causal mask relates two sequences, and only one of them gets shorter")
    outputs: list[Axes] = [{at: query} if query is not None else {}]
    cache = {2: key} if key is not None else {}
    scores = {i: axis for i, axis in ((2, query), (3, key)) if axis is not None}
    return [*outputs, cache, cache, scores][: len(node.outputs)]


def einsum(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """A label that runs over tokens must run over them in every operand that has it."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    if "." in equation or "->" not in equation:
        downstream.refuse(node, f"equation {equation!r} is not written out in full")
    terms, result = equation.split("->")[0].split(","), equation.split("->")[1]
    labels: dict[str, Axis] = {}
    for i, term in enumerate(terms):
        for position, axis in downstream.axes.get(node.inputs[i], {}).items():  # type: ignore[arg-type]
            labels.setdefault(term[position], axis)
    for i, term in enumerate(terms):
        for position, label in enumerate(term):
            if label not in labels:
                continue
            if label not in result and _axis(downstream, node, i, position) is None:
                downstream.refuse(
                    node, f"it sums over the tokens with {downstream.label(node, i)}, which does not come from them"
                )
            labels[label] = downstream.meet(node, i, position, labels[label])
    return [{position: labels[label] for position, label in enumerate(result) if label in labels}]
