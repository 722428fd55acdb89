"""Shapes of ONNX Runtime's own operators (com.microsoft), which ONNX's shape inference does not know."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from .fold_integers import plain

DOMAIN = "com.microsoft"
Sizes = list[int | None]
# fmt: off
_SAME = frozenset({
    "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "QuickGelu", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})
# fmt: on
# Products with a matrix whose result is float: operator -> the input that has the type of the result.
_PRODUCTS = {"FusedMatMul": 0, "DynamicQuantizeMatMul": 0, "MatMulIntegerToFloat": 2}
# Where the operator gives the sum before the norm too.
_SUM = 3


def contrib_sizes(
    node: ir.Node, dims: Callable[[ir.Value | None], Sizes | None]
) -> list[tuple[ir.Value, Sizes, ir.DataType | None]]:
    """(output, sizes, type) of each output whose shape follows from the inputs; none of an unknown operator.

    Args:
        node: of the domain com.microsoft, or an operator that ONNX Runtime added to the standard domain.
        dims: sizes of a value, None for an unknown one.
    """
    source = dims(node.inputs[0]) if node.inputs else None
    if source is None:
        return []
    sizes, typed = None, node.inputs[0]
    if node.op_type in _SAME:
        sizes = source
    elif node.op_type == "MatMulNBits":
        sizes = [*source[:-1], plain(node, "N", None)]
    elif node.op_type in _PRODUCTS:
        sizes, typed = _product(node, source, dims(node.inputs[1])), node.inputs[_PRODUCTS[node.op_type]]
    elif node.op_type == "Attention":
        sizes = _attention(node, source, dims(node.inputs[1]))
    elif node.op_type == "MultiHeadAttention":
        sizes = _multi_head(node, source, dims(node.inputs[2]) if len(node.inputs) > 2 else None)
    if sizes is None or typed is None:
        return []
    outputs = [node.outputs[0], *(node.outputs[_SUM : _SUM + 1] if node.op_type.startswith("Skip") else ())]
    return [(output, sizes, typed.dtype) for output in outputs if output.name]


def operand_order(node: ir.Node, index: int, rank: int) -> list[int]:
    """The axes of an operand of MatMul, Gemm or FusedMatMul in the order it is multiplied in: batch, rows, columns.

    The last two turn their operands first: `transBatchA` takes the first axis behind the others of the batch, `transA`
    swaps the last two; `transBatchB` and `transB` likewise.
    """
    side, order = "AB"[index], list(range(rank))
    if rank > 2 and plain(node, f"transBatch{side}", 0):
        order = [*order[1:-1], 0, order[-1]]
    if rank > 1 and plain(node, f"trans{side}", 0):
        order[-2:] = [order[-1], order[-2]]
    return order


def _product(node: ir.Node, left: Sizes, right: Sizes | None) -> Sizes | None:
    if right is None or len(left) < 2 or len(right) < 2:
        return None
    left, right = (
        [sizes[i] for i in operand_order(node, side, len(sizes))] for side, sizes in enumerate((left, right))
    )
    outer = max(left[:-2], right[:-2], key=len)
    other = min(left[:-2], right[:-2], key=len) if len(left) != len(right) else right[:-2]
    merged = [*outer]
    for i, size in enumerate(reversed(other), 1):
        merged[-i] = size if merged[-i] == 1 else merged[-i]
    return [*merged, left[-2], right[-1]]


def _attention(node: ir.Node, source: Sizes, weights: Sizes | None) -> Sizes | None:
    widths = plain(node, "qkv_hidden_sizes", None)
    width = widths[2] if widths else weights[1] // 3 if weights and weights[1] else None
    return [*source[:-1], width] if len(source) == 3 else None


def _multi_head(node: ir.Node, query: Sizes, value: Sizes | None) -> Sizes | None:
    if len(query) == 5:
        heads, width = query[2], query[4]
        return [*query[:2], heads * width if heads and width else None]
    if value is None or len(query) != 3:
        return None
    if len(value) == 4:
        return [*query[:2], value[1] * value[3] if value[1] and value[3] else None]
    return [*query[:2], value[-1]]
