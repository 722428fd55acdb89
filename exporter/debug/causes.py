"""What two graphs do otherwise before the first value that differs: attributes, constants, operators."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import onnx_ir as ir

from ...graph_passes.ir_tools.walk import node_keys

# Of a constant: printed whole up to here.
_SHORT = 8
# A weight that was only rounded to half precision.
_ROUNDED = 5e-3


_SPELLED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Reshape", "Transpose", "Cast", "Identity", "Squeeze", "Unsqueeze", "Flatten"), ()),
    "Gemm": ("MatMul", "Add"),
    "FusedMatMul": ("MatMul",),
    "FusedGemm": ("MatMul", "Add"),
    "FusedConv": ("Conv",),
    "SkipLayerNormalization": ("Add", "LayerNormalization"),
    "BiasGelu": ("Add", "Gelu"),
    "QuickGelu": ("Gelu",),
    "FastGelu": ("Gelu",),
}


def causes(a: ir.Model, b: ir.Model) -> list[str]:
    """A sentence for each thing that B's part does otherwise than A's; none where they are the same."""
    ours, theirs = _computing(a), _computing(b)
    keys = {**node_keys(a.graph), **node_keys(b.graph)}
    matcher = SequenceMatcher(None, [n.op_type for n in ours], [n.op_type for n in theirs], autojunk=False)
    found: list[str] = []
    for tag, i, to_i, j, to_j in matcher.get_opcodes():
        if tag == "equal":
            for one, other in zip(ours[i:to_i], theirs[j:to_j]):
                found += [f"{one.op_type} {keys[one]}: {text}" for text in _differences(one, other)]
            continue
        found += [f"only A has {node.op_type} {keys[node]}" for node in ours[i:to_i]]
        found += [f"only B has {node.op_type} {keys[node]}" for node in theirs[j:to_j] if node.op_type != "Cast"]
    return found


def likeness(a: ir.Model, b: ir.Model) -> float:
    """The share of operators that two parts have in common, in their order, fused ones spelled out: 0 to 1."""
    ours, theirs = (
        [name for node in _computing(model) for name in _SPELLED.get(node.op_type, (node.op_type,))] for model in (a, b)
    )
    return SequenceMatcher(None, ours, theirs, autojunk=False).ratio()


def _computing(model: ir.Model) -> list[ir.Node]:
    """The nodes but for constants, in the order in which the outputs need them."""
    seen, order = set[ir.Node](), list[ir.Node]()
    stack: list[tuple[ir.Node | None, bool]] = [(value.producer(), False) for value in reversed(model.graph.outputs)]
    while stack:
        node, done = stack.pop()
        if done and node is not None:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(value.producer(), False) for value in reversed(node.inputs) if value is not None]
    return [node for node in order if node.op_type != "Constant"]


def _differences(a: ir.Node, b: ir.Node) -> Iterator[str]:
    for name in sorted({*a.attributes, *b.attributes}):
        one, other = (_plain(node.attributes.get(name) or _default(node, name)) for node in (a, b))
        if one != other and name != "to":
            yield f"{name} is {one} in A and {other} in B"
    if len(a.inputs) != len(b.inputs):
        yield f"it reads {len(a.inputs)} values in A and {len(b.inputs)} in B"
    for index, (x, y) in enumerate(zip(a.inputs, b.inputs)):
        one, other = _constant(x), _constant(y)
        if one is not None and other is not None and (text := _constants(one, other)):
            yield f"input {index}, {(y.name if y is not None else '') or '?'}, {text}"
    moved = [index for index, (x, y) in enumerate(zip(a.inputs, b.inputs)) if (x is None) != (y is None)]
    for index in moved:
        yield f"input {index} is {'left out in A' if a.inputs[index] is None else 'left out in B'}"


def _default(node: ir.Node, name: str) -> ir.Attr | None:
    """What an attribute is where it is not set."""
    import onnx

    try:
        found = onnx.defs.get_schema(node.op_type, node.version or 18, node.domain).attributes[name].default_value
    except (onnx.defs.SchemaError, KeyError):
        return None
    return ir.serde.deserialize_attribute(found) if found.name else None


def _plain(attribute: ir.Attr | None) -> Any:
    if attribute is None:
        return "not set"
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy().tolist()
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "a graph"
    if attribute.type == ir.AttributeType.FLOAT:
        # Of float32, in which it is stored.
        return f"{attribute.as_float():.7g}"
    return list(attribute.value) if isinstance(attribute.value, (list, tuple)) else attribute.value


def _constant(value: ir.Value | None) -> np.ndarray | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _constants(a: np.ndarray, b: np.ndarray) -> str:
    """How two constants differ by more than the rounding to half precision; empty where they do not."""
    if a.shape != b.shape:
        return f"is {_text(a)} in A and {_text(b)} in B"
    if a.dtype.kind in "iub" and b.dtype.kind in "iub":
        return f"is {_text(a)} in A and {_text(b)} in B" if (a != b).any() else ""
    x, y = a.astype(np.float64), b.astype(np.float64)
    same_type = a.dtype == b.dtype
    largest = float(np.abs(x[np.isfinite(x)]).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        distance = np.where(x == y, 0.0, np.abs(x - y))
    if np.isfinite(distance).all() and distance.max(initial=0.0) <= (0.0 if same_type else _ROUNDED * largest):
        return ""
    if a.size <= _SHORT:
        return f"is {_text(a)} in A and {_text(b)} in B"
    return f"differs by up to {distance.max():.3g}, and A's largest number is {largest:.3g}"


def _text(array: np.ndarray) -> str:
    return str(array.tolist()) if array.size <= _SHORT else f"{array.dtype} {list(array.shape)}"
