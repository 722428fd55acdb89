"""Find attention in a graph by its pattern, independent of the exporter's names.

Up to opset 22 attention is ``Softmax(scale * Q K^T + mask) V`` in many spellings: the scale on the product, on Q, or
its square root on both; K transposed in one step or through a reshape; masks added or selected; a guard against rows
that are masked completely. From opset 23 on exporters emit one `Attention` node.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .token_flow import QUANTISERS
from .walk import FLOATS, Walk, attribute, dims, scalar

_THROUGH = frozenset(
    {
        "Add",
        "Cast",
        "Clip",
        "DequantizeLinear",
        "Div",
        "Identity",
        "QuantizeLinear",
        "Max",
        "Mul",
        "Reshape",
        "Squeeze",
        "Sub",
        "Tanh",
        "Unsqueeze",
        "Where",
    }
)

CONTRIB = "com.microsoft"
_PRODUCTS = ("MatMul", "FusedMatMul", "Einsum")


@dataclass(frozen=True)
class Operand:
    """Queries or keys as they can be read in the graph.

    Attributes:
        value: the value.
        layout: its axes: B batch, H heads, N tokens, D channels of a head, E channels of all heads.
        scale: what the exporter has already multiplied them with.
    """

    value: ir.Value
    layout: str
    scale: float = 1.0


@dataclass(frozen=True)
class Attention:
    """One attention.

    Attributes:
        node: the Softmax or the Attention node.
        product: the two values whose product gives the logits.
        logits: input of the Softmax; None for an Attention node.
        weights: softmax output, after its NaN guard if any, [B, H, n, m] or [B * H, n, m]; None for an Attention node.
        query: for an Attention node.
        key: None if its layout cannot be determined.
        scale: multiplies Q K^T in an Attention node.
        heads: known only for an Attention node with rank-3 inputs.
    """

    node: ir.Node
    product: tuple[ir.Value, ir.Value]
    logits: ir.Value | None = None
    weights: ir.Value | None = None
    query: Operand | None = None
    key: Operand | None = None
    scale: float = 1.0
    heads: int | None = None

    @property
    def lengths(self) -> tuple[int | None, int | None]:
        """Number of queries and of keys."""
        if self.weights is not None:
            shape = dims(self.weights)
            return (shape[-2], shape[-1]) if shape is not None and len(shape) >= 3 else (None, None)
        query, key = dims(self.product[0]), dims(self.product[1])
        return (query[-2] if query else None, key[-2] if key else None)


def attentions(walk: Walk) -> list[Attention]:
    """Every attention of the main graph, in its order."""
    found = (match(walk, node) for node in walk.nodes)
    return [attention for attention in found if attention is not None]


def pooling_attentions(walk: Walk) -> list[Attention]:
    """Every attention of learned queries (a probe) to computed keys, in the order of the graph."""
    found = (match(walk, node, probe=True) for node in walk.nodes)
    return [
        attention
        for attention in found
        if attention is not None and walk.learned(attention.product[0]) and not walk.learned(attention.product[1])
    ]


def products(attention: Attention) -> list[ir.Node]:
    """The product of queries and keys, and that of the weights with the values; an Attention node is both."""
    if attention.logits is None:
        return [attention.node]
    query, key = attention.product
    found = [node for node in key.consumers() if query in node.inputs]
    todo = [attention.node.outputs[0]]
    while todo:
        for node in todo.pop().consumers():
            if node.op_type in _PRODUCTS:
                found.append(node)
            elif node.op_type in _THROUGH | {"Dropout"}:
                todo.extend(node.outputs)
    return found


def match(walk: Walk, node: ir.Node, *, probe: bool = False) -> Attention | None:
    """The attention whose Softmax (over the last axis) or Attention node this is; with `probe`, of learned queries."""
    if node.domain == CONTRIB:
        return _from_contrib(node)
    if node.domain != "":
        return None
    if node.op_type == "Attention":
        return _from_operator(node)
    if node.op_type != "Softmax" or node.inputs[0] is None:
        return None
    logits = node.inputs[0]
    rank = len(dims(logits) or ())
    if attribute(node, "axis", -1) not in (-1, rank - 1):
        return None
    product = _product(walk, logits, probe)
    if product is None:
        return None
    weights = _after_guard(node.outputs[0])
    return Attention(node, product, logits=logits, weights=weights, key=_keys(walk, *product))


def _from_operator(node: ir.Node) -> Attention | None:
    query, key = node.inputs[0], node.inputs[1]
    cached = any(value is not None for value in node.inputs[4:6])
    if query is None or key is None or cached:
        return None
    rank = len(dims(query) or ())
    layout = {3: "BNE", 4: "BHND"}.get(rank)
    if layout is None:
        return None
    heads = int(attribute(node, "q_num_heads", 0)) or None  # type: ignore[call-overload]
    shape = dims(query)
    assert shape is not None
    width = shape[-1] if rank == 4 else shape[-1] // heads if heads and shape[-1] else None
    scale = attribute(node, "scale", None) or (width**-0.5 if width else 1.0)
    return Attention(
        node,
        (query, key),
        query=Operand(query, layout),
        key=Operand(key, layout),
        scale=float(scale),  # type: ignore[arg-type]
        heads=heads,
    )


def _from_contrib(node: ir.Node) -> Attention | None:
    """ONNX Runtime's fused attention; its queries and keys can be read where no bias or mask is added inside."""
    given = [value is not None for value in node.inputs]
    if node.op_type == "Attention" and not any(given[4:5]):
        assert node.inputs[0] is not None
        return Attention(node, (node.inputs[0], node.inputs[0]))
    query, key = (*node.inputs[:2], None, None)[:2]
    separate = query is not None and key is not None and len(dims(query) or ()) == len(dims(key) or ()) == 3
    if node.op_type != "MultiHeadAttention" or not separate or any(given[6:8]):
        return None
    assert query is not None and key is not None
    if any(given[3:6]):
        return Attention(node, (query, key))
    heads = int(attribute(node, "num_heads", 1))  # type: ignore[call-overload]
    width = (dims(query) or (None,))[-1]
    scale = attribute(node, "scale", None) or (width // heads) ** -0.5 if width else 1.0
    operands = Operand(query, "BNE"), Operand(key, "BNE")
    return Attention(node, (query, key), None, None, *operands, float(scale), heads)  # type: ignore[arg-type]


def _product(walk: Walk, logits: ir.Value, probe: bool) -> tuple[ir.Value, ir.Value] | None:
    """The operands of the nearest product upstream of the logits: two computed values, or a probe and computed keys."""
    todo, seen = [logits], set()
    while todo:
        node = todo.pop(0).producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type in _PRODUCTS and len(inputs) == 2:
            if walk.learned(inputs[0]) is probe and not walk.learned(inputs[1]):
                return inputs[0], inputs[1]
        elif node.op_type in QUANTISERS:
            todo.append(inputs[0])
        elif node.op_type in _THROUGH:
            todo.extend(walk.inputs(node))
    return None


def _after_guard(weights: ir.Value) -> ir.Value:
    """Follow ``Where(IsNaN(x), 0, x)``, which exporters put after the softmax of a masked attention."""
    guards = [node for node in weights.consumers() if node.op_type == "Where" and node.inputs[2] is weights]
    if len(guards) == 1 and any(node.op_type == "IsNaN" for node in weights.consumers()):
        return guards[0].outputs[0]
    return weights


def _keys(walk: Walk, query: ir.Value, operand: ir.Value) -> Operand | None:
    """Walk from K^T back through layout and scalar factors; axes have names, so n = d or H = n is unambiguous."""
    node = operand.producer()
    rank = len(dims(operand) or ())
    if rank not in (3, 4) or (node is not None and node.op_type == "Einsum"):
        return None
    value = operand
    # FusedMatMul may transpose the keys itself.
    whole = any(query in user.inputs and attribute(user, "transB", 0) for user in operand.consumers())
    axes: tuple[str, ...] = (*(("B", "H") if rank == 4 else ("BH",)), *(("N", "D") if whole else ("D", "N")))
    best: tuple[ir.Value, str] | None = None
    factor = 1.0
    while True:
        if len(axes) == 4 and value.dtype in FLOATS:
            best, factor = (value, "".join(axes)), 1.0
        step = value.producer()
        if step is None:
            break
        if step.op_type in ("Mul", "Div"):
            value, number = _unscaled(walk, step)
            if number is None:
                break
            factor *= number
            continue
        moved = _unmoved(step, axes)
        if moved is None:
            break
        value, axes = moved
    if best is None:
        return None
    return Operand(*best, factor)


def _unscaled(walk: Walk, node: ir.Node) -> tuple[ir.Value, float | None]:
    """The computed operand of a product with a scalar constant, and that constant."""
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None and right is not None
    if walk.constant(right):
        number = scalar(right)
        return left, None if not number else number if node.op_type == "Mul" else 1 / number
    if node.op_type == "Mul" and walk.constant(left):
        return right, scalar(left) or None
    return left, None


def _unmoved(node: ir.Node, axes: tuple[str, ...]) -> tuple[ir.Value, tuple[str, ...]] | None:
    """Input of a layout node and the names of its axes, given those of its output."""
    source = node.inputs[0] if node.inputs else None
    shape = dims(source)
    if source is None or shape is None:
        return None
    if node.op_type in ("Cast", "Identity", *QUANTISERS):
        return source, axes
    if node.op_type == "Transpose":
        perm = attribute(node, "perm", None)
        if perm is None or len(perm) != len(axes):  # type: ignore[arg-type]
            return None
        names = dict(zip(perm, axes))  # type: ignore[call-overload]
        return source, tuple(names[i] for i in range(len(axes)))
    if node.op_type != "Reshape":
        return None
    target = dims(node.outputs[0])
    if shape == target:
        return source, axes
    if axes[:2] == ("B", "H") and len(shape) == 3:
        return source, ("BH", *axes[2:])
    if axes[0] == "BH" and len(shape) == 4:
        return source, ("B", "H", *axes[1:])
    if axes == ("B", "N", "H", "D") and len(shape) == 3:
        return source, ("B", "N", "E")
    return None
