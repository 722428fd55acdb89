"""Whether an attention is self-attention of exactly the tokens at a seam: only then its weights and keys are theirs."""

from __future__ import annotations

import onnx_ir as ir

from ..ir_tools.attention import Attention
from ..ir_tools.token_flow import NORMS, QUANTISERS, weight_product
from ..ir_tools.walk import Walk, attribute, dims
from ..resize.batch_axis import Named, follow

_SAME = NORMS | {"Cast", "Identity", "Dropout", "DynamicQuantizeLinear", *QUANTISERS}


def attends_to_these(walk: Walk, attention: Attention, value: ir.Value) -> bool:
    """Whether queries and keys both come from one value whose tokens are those of `value`, in their order.

    Both are [B, n, D]; or [n, D], a batch of one.
    """
    sources = [_sources(walk, operand) for operand in attention.product]
    if len(sources[0]) != 1 or sources[0] != sources[1]:
        return False
    (source,) = sources[0]
    shape = dims(source)
    flat = len(dims(value) or ()) == 2
    if shape is None or len(shape) != (2 if flat else 3) or shape[-2] != attention.lengths[0]:
        # Other layouts of the stream ([N, B, D]) are followed by the counts alone.
        return not flat and shape is not None and shape[0] == attention.lengths[0]
    start = attention.node.outputs[0] if flat else source
    named: dict[ir.Value, Named] = {start: (*((),) * (len(dims(start) or ()) - 2), (("N", shape[-2] or 0),), ())}
    for node in walk.sorted(walk.descendants(start) & (walk.ancestors(value) | {attention.node})):
        for output, axes in zip(node.outputs, follow(node, named)):
            named[output] = axes
    if value is source:
        return True
    axes = named.get(value, ())
    # Without a batch the rest of the graph may move the tokens' axis: split and put together again, their order is
    # not proved.
    return _only_on_axis(axes, len(axes) - 2) and not (flat and len(axes[0]) > 1)


def keys_are_tokens(walk: Walk, attention: Attention, tokens: ir.Value) -> bool:
    """Whether the keys lie on an axis that holds the tokens of `tokens` [B, n, D] or [n, D] alone, row for row."""
    shape = dims(tokens) or (None, None, None)
    batch = ((("B", shape[0] or 2),),) if len(shape) == 3 else ()
    named: dict[ir.Value, Named] = {tokens: (*batch, (("N", shape[-2] or 0),), ())}
    for node in walk.sorted(walk.descendants(tokens) & (walk.ancestors(attention.node.outputs[0]))):
        for output, axes in zip(node.outputs, follow(node, named)):
            named[output] = axes
    keys = attention.logits if attention.logits is not None else attention.product[1]
    axes = named.get(keys, ())
    at = len(axes) - (1 if attention.logits is not None else 2)
    return at >= 0 and {letter for name, _ in axes[at] for letter in name} == {"N"}


def _only_on_axis(axes: Named, at: int) -> bool:
    named = [{letter for name, _ in factors for letter in name} for factors in axes]
    return len(named) > at and "N" in named[at] and not any("N" in names for i, names in enumerate(named) if i != at)


def _sources(walk: Walk, operand: ir.Value) -> set[ir.Value]:
    """The values that the products with weights above queries or keys read, norms left out."""
    found: set[ir.Value] = set()
    todo, seen = [operand], set()
    while todo:
        value = todo.pop()
        if value in seen or walk.learned(value):
            continue
        seen.add(value)
        node = value.producer()
        if node is None or _joins_tokens(node):
            found.add(value)
        elif weight_product(walk, node):
            found.add(_stream(walk, node.inputs[0]))
        else:
            todo += [x for x in node.inputs if x is not None]
    return found


def _joins_tokens(node: ir.Node) -> bool:
    """Whether a sequence [B, n, D] is put together here, such as CLS and patches."""
    axis = attribute(node, "axis", 0) if node.op_type == "Concat" else None
    return axis in (1, -2) and len(dims(node.outputs[0]) or ()) == 3


def _stream(walk: Walk, value: ir.Value | None) -> ir.Value:
    """Back over norms, casts and layouts of the same tokens."""
    assert value is not None
    node = value.producer()
    while node is not None:
        reshaped = node.op_type == "Reshape" and {len(dims(node.inputs[0]) or ()), len(dims(value) or ())} == {2, 3}
        if node.op_type not in _SAME and not reshaped:
            break
        assert node.inputs[0] is not None
        value = node.inputs[0]
        node = value.producer()
    return value
