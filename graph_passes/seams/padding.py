"""Padding among the tokens: a mask that depends on an input says that some of them are no content.

A compressor reads no mask: it would keep tokens of padding, and merge them with real ones. A mask that follows from
parameters and sizes alone (causal, windows) is the same for every input and says nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ...errors import GraphError
from ..ir_tools.token_flow import weight_product
from ..ir_tools.walk import FLOATS, Walk, dims

# Inputs that hold a mask, a bias or lengths, of operators that attend.
_MASK_INPUTS = {
    ("", "Attention"): (3, 6),
    ("com.microsoft", "Attention"): (3, 5),
    ("com.microsoft", "DecoderAttention"): (5,),
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): (3, 4),
    ("com.microsoft", "DecoderMaskedSelfAttention"): (3, 5),
    ("com.microsoft", "DynamicSparseAttention"): (9, 10),
    ("com.microsoft", "GroupQueryAttention"): (5, 6, 10),
    ("com.microsoft", "LongformerAttention"): (3,),
    ("com.microsoft", "MultiHeadAttention"): (4, 5),
    ("com.microsoft", "PackedAttention"): (3, 4, 5),
    ("com.microsoft", "PackedMultiHeadAttention"): (4, 5, 6),
    ("com.microsoft", "PagedAttention"): (5, 6),
    ("com.microsoft", "QAttention"): (5,),
    ("com.microsoft", "QOrderedAttention"): (17, 19),
    ("com.microsoft", "QOrderedLongformerAttention"): (7,),
    ("com.microsoft", "SparseAttention"): (7, 8),
    ("com.microsoft", "SparsePagedAttention"): (5, 6),
}

_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Einsum", "Gemm", "MatMulInteger", "QLinearMatMul"})


def refuse_padding(walk: Walk, tensor: str) -> None:
    """Refuse a graph where tokens upstream or downstream of `tensor` are masked by what depends on an input.

    Raises:
        GraphError: names the mask and the input, and what `--assume-no-padding` would mean.
    """
    value = walk.value(tensor)
    if value is None:
        return
    nodes = walk.ancestors(value) | walk.descendants(value)
    stream = _stream(walk, nodes)
    for node, mask, gate in _masks(walk, nodes, value):
        source = _input_of(walk, mask, stream, discrete=gate)
        if source:
            raise GraphError(
                f"some of the tokens may be padding: {node.op_type} {node.name or node.outputs[0].name!r} masks them "
                f"by {mask.name!r}, which depends on the input {source!r}; padding would be kept, and merged with real "
                "tokens",
                where=f"graph {walk.graph.name or 'main'}, tensor {tensor}",
                fix=f"Where {source!r} never marks padding (every input fills the whole length), add "
                "--assume-no-padding (assume_no_padding=True): results for padded inputs are then wrong. Or export "
                "the model without its mask.",
            )


def _masks(walk: Walk, nodes: set[ir.Node], tokens: ir.Value) -> Iterator[tuple[ir.Node, ir.Value, bool]]:
    """(node, operand, whether it is a gate on tokens) for everything that could mask."""
    for node in walk.sorted(nodes):
        for i in _MASK_INPUTS.get((node.domain.replace("ai.onnx", ""), node.op_type), ()):
            mask = node.inputs[i] if i < len(node.inputs) else None
            if mask is not None and not walk.learned(mask):
                yield node, mask, False
    for node in walk.sorted(nodes):
        if _of_two(walk, node):
            yield from _between(walk, node)
    shape = dims(tokens) or ()
    length = shape[-2] if len(shape) in (2, 3) else None
    for node in walk.sorted(nodes):
        if node.op_type == "ScatterND" and (mask := node.inputs[1]) is not None and not walk.learned(mask):
            yield node, mask, True
        if node.op_type not in ("Mul", "Where", "And"):
            continue
        computed = [x for x in node.inputs if x is not None and not walk.learned(x)]
        for mask in computed:
            over = (dims(mask) or ())[-2:]
            boolean = mask.dtype == ir.DataType.BOOL
            gates = len(over) == 2 and (over[1] == 1 or boolean) and over[0] == length
            if length not in (None, 1) and gates and (boolean or len(computed) > 1):
                yield node, mask, True


def _of_two(walk: Walk, node: ir.Node) -> bool:
    """Whether the node is a product of two computed values, as of queries and keys, or of weights and values."""
    factors = (node.inputs[0], node.inputs[3]) if node.op_type == "QLinearMatMul" else node.inputs[:2]
    return node.op_type in _PRODUCTS and len([x for x in factors if x is not None and not walk.learned(x)]) == 2


def _between(walk: Walk, product: ir.Node) -> Iterator[tuple[ir.Node, ir.Value, bool]]:
    """Computed operands that come in between one product of two computed values and the next.

    That is an attention, however its softmax is written.
    """
    below = walk.descendants(product.outputs[0], until=lambda node: node.op_type in _PRODUCTS)
    mixes = [node for node in below if _of_two(walk, node)]
    way = below & {node for mix in mixes for x in mix.inputs if x is not None for node in walk.ancestors(x)}
    inside = {product, *way}
    for node in walk.sorted(node for node in way if node.op_type not in _PRODUCTS):
        for mask in node.inputs:
            # One number for all, as the scale of a quantised product is, tells no token from another.
            shape = dims(mask)
            alike = shape is not None and all(size == 1 for size in shape)
            if mask is not None and mask.producer() not in inside and not alike and not walk.learned(mask):
                yield node, mask, False


def _stream(walk: Walk, nodes: set[ir.Node]) -> set[ir.Node]:
    """Nodes that compute features or read them: products with weights."""
    found: set[ir.Node] = set()
    for node in walk.sorted(nodes):
        feature = weight_product(walk, node) or node.op_type in ("Conv", "ConvInteger", "QLinearConv")
        reads = any(x is not None and x.producer() in found for x in node.inputs)
        # A quantised product gives integers, which are features all the same.
        if feature or (reads and any(output.dtype in FLOATS for output in node.outputs)):
            found.add(node)
    return found


def _input_of(walk: Walk, mask: ir.Value, stream: set[ir.Node], *, discrete: bool) -> str:
    """The input that a mask depends on, by a way that is not through features; empty where there is none.

    Args:
        walk: the graph.
        mask: the operand.
        stream: nodes that compute features or read them.
        discrete: whether only a way through integers or booleans counts, as a scale computed from the tokens has none.
    """
    todo = [(mask, not discrete)]
    seen: set[tuple[ir.Value, bool]] = set()
    while todo:
        value, counts = todo.pop()
        counts = counts or value.dtype not in FLOATS
        if (value, counts) in seen or walk.learned(value):
            continue
        seen.add((value, counts))
        node = value.producer()
        if node is None:
            # An input with one number for each token says something of the token, not of its content.
            if (counts or (dims(value) or ())[-1:] == (1,)) and value.is_graph_input():
                return value.name or ""
        elif node not in stream:
            todo += [(x, counts) for x in node.inputs if x is not None]
    return ""
