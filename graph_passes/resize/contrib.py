"""Rules for operators of ONNX Runtime (com.microsoft) and for dynamic quantisation, which its tools write."""

from __future__ import annotations

import onnx_ir as ir

from . import products
from .axis import Axes
from .state import Downstream


def skip_norm(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """The sum of two operands, normalised over the last axis; statistics and the sum have the same tokens."""
    spans = {i: (0, len(downstream.dims(node, value))) for i, value in enumerate(node.inputs) if value is not None}
    axes = products.broadcast(downstream, node, spans)
    last = len(downstream.dims(node, node.inputs[0])) - 1
    if last in axes:
        downstream.refuse(node, f"it normalises over the token axis {last}")
    return [axes] * len(node.outputs)


def nbits(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """A product with a matrix that is packed in few bits: rows may be tokens."""
    axes = downstream.axes.get(node.inputs[0], {})  # type: ignore[arg-type]
    last = len(downstream.dims(node, node.inputs[0])) - 1
    if last in axes:
        downstream.refuse(node, f"it sums over the tokens of axis {last} with {downstream.label(node, 1)}")
    return [axes]


def dynamic_quantise(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """One scale for the whole tensor, taken from the tokens there are."""
    return [downstream.axes[node.inputs[0]], {}, {}]  # type: ignore[index]


def attention(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Attention over one value [B, N, E], its projections inside."""
    return _attend(downstream, node, (0,), {3: "mask", 4: "cache", 6: "length"})


def multi_head(downstream: Downstream, node: ir.Node) -> list[Axes]:
    """Attention of queries, keys and values [B, N, E]."""
    for i in range(3):
        if i and not downstream.has_input(node, i):
            downstream.refuse(node, "queries, keys and values are packed in one value")
    return _attend(downstream, node, (0, 1, 2), {4: "padding mask", 6: "cache", 7: "cache"})


def _attend(downstream: Downstream, node: ir.Node, operands: tuple[int, ...], refused: dict[int, str]) -> list[Axes]:
    for i, what in refused.items():
        if downstream.has_input(node, i):
            downstream.refuse(node, f"it has a {what} {downstream.label(node, i)} of fixed length")
    found = []
    for i in operands:
        axes = downstream.axes.get(node.inputs[i], {})  # type: ignore[arg-type]
        rank = len(downstream.dims(node, node.inputs[i]))
        if rank != 3 or set(axes) - {1}:
            downstream.refuse(
                node, f"{downstream.label(node, i)} of rank {rank} has tokens on {sorted(axes)}, not on 1"
            )
        found.append(axes.get(1))
    query, key, value = found if len(found) == 3 else found * 3
    if (key is None) != (value is None):
        downstream.refuse(node, "only one of keys and values comes from the tokens")
    if key is not None and len(found) == 3:
        downstream.meet(node, 2, 1, key)
    if downstream.has_input(node, 5):
        dims = downstream.dims(node, node.inputs[5])
        for position, axis in ((len(dims) - 2, query), (len(dims) - 1, key)):
            if axis is not None and dims[position] != 1:
                downstream.meet(node, 5, position, axis)
    return [{1: query} if query is not None else {}]
