"""A mean over merged tokens is weighted by their sizes: then it is the mean over the tokens they stand for.

Where a softmax over the tokens gives the weights, the logarithm of the sizes is added to its logits.

Exact where the merged tokens were equal, or where a slot is their mean and only linear steps lie in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...errors import GraphError
from ..ir_tools.attention import attentions, pooling_attentions
from ..ir_tools.builder import DTYPE_NAMES, Builder
from ..ir_tools.walk import Walk, dims
from ..resize.state import Pool


def weigh_pools(model: ir.Model, pools: Sequence[Pool], sizes: ir.Value, until: ir.Value | None = None) -> list[str]:
    """Weight every mean over compressed tokens, in place.

    Args:
        model: the graph, compressed.
        pools: means over them, as the plan of the resize found them.
        sizes: [B, K] float32.
        until: where they will be compressed again: a mean downstream of it is left to that step.

    Returns:
        A line on each.

    Raises:
        GraphError: a mean whose token axis holds more than the tokens of one row.
    """
    walk = Walk(model)
    later = walk.descendants(until) if until is not None else set()
    # The weights of an attention are `size_bias`'s.
    attending = {a.node for a in (*attentions(walk), *pooling_attentions(walk))}
    return [_weigh(model, pool, sizes) for pool in pools if pool.node not in later | attending]


def _weigh(model: ir.Model, pool: Pool, sizes: ir.Value) -> str:
    node, axis, tokens = pool.node, pool.position, pool.axis
    value = node.inputs[0]
    assert value is not None
    name = node.name or node.outputs[0].name or ""
    rank, batch = len(dims(value) or ()), (dims(sizes) or (None,))[0]
    own_batch = axis > 0 or batch == 1
    if not tokens.plain or not own_batch or value.dtype not in DTYPE_NAMES:
        raise GraphError(
            f"{node.op_type} {name!r} takes a mean over merged tokens of several rows, which their sizes cannot weight",
            where=f"graph {model.graph.name or 'main'}, tensor {value.name}",
            fix="Use --size-bias off for an unweighted mean, or a method that merges nothing.",
        )
    b = Builder(f"{node.outputs[0].name}.weighted.")
    weights: ir.Value = sizes
    if tokens.prefix or tokens.suffix:
        weights = b.op("Pad", sizes, [0, tokens.prefix, 0, tokens.suffix], 1.0)
    by_softmax = node.op_type == "Softmax"
    if by_softmax:
        weights = b.op("Log", weights)
    else:
        # Times the count over the sum: the mean that follows divides by the count.
        total = b.op("ReduceSum", weights, [1], keepdims=1)
        weights = b.op("Mul", weights, b.op("Div", float(tokens.new), total))
    if value.dtype != ir.DataType.FLOAT:
        weights = b.cast(weights, DTYPE_NAMES[value.dtype])
    others = [i for i in range(rank) if i != axis and (i or not axis)]
    if not axis:
        weights = b.op("Squeeze", weights, [0])
    if others:
        weights = b.op("Unsqueeze", weights, [i for i in others if i != axis])
    weighted = b.op("Add" if by_softmax else "Mul", value, weights)
    weighted.dtype, weighted.shape = value.dtype, value.shape
    model.graph.insert_before(node, b.nodes)
    node.replace_input_with(0, weighted)
    return f"{node.op_type} {name}: weighted by the sizes of merged tokens"
